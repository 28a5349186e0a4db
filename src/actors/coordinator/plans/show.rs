//! What is said of the broadcasts of the config file.

use crate::config::BroadcastRule;
use crate::protocol::plan::{Gate, Memory};
use crate::protocol::series::SeriesName;
use crate::protocol::transfer::TransferState;

use super::super::super::api::{Event, PlanInfo, PlanReceiver};
use super::super::super::peer::unix_now;
use super::super::Coordinator;

impl Coordinator {
    /// All that the config file has, as they stand.
    pub(in super::super) fn plan_infos(&mut self) -> Vec<Event> {
        let rules = self.settings.broadcasts.clone();
        let running = self.plans.running.values().map(|of| of.rule.clone());
        // After a reload, what runs is what counts.
        let rules: Vec<BroadcastRule> = match self.plans.runs {
            true => running
                .chain(rules.into_iter().filter(|rule| !rule.enabled))
                .collect(),
            false => rules,
        };
        let infos = rules.iter().map(|rule| self.plan_info(rule, true));
        infos.map(|info| Event::Plan(Box::new(info))).collect()
    }

    /// Tells whoever watches where one stands.
    pub(super) fn show_plan(&mut self, name: &SeriesName) {
        let Some(running) = self.plans.running.get(name) else {
            return;
        };
        let rule = running.rule.clone();
        let event = Event::Plan(Box::new(self.plan_info(&rule, false)));
        self.emit(&event);
    }

    pub(in super::super) fn plan_info(
        &mut self,
        rule: &BroadcastRule,
        receivers: bool,
    ) -> PlanInfo {
        let now = self.plans.now();
        let running = self.plans.running.get(&rule.name);
        let stored = self.plans.records.get(&rule.name);
        let memory = match running {
            Some(running) => running.plan.memory().clone(),
            None => stored.map_or_else(Memory::default, |of| of.memory.clone()),
        };
        let broadcast =
            running.map_or_else(|| stored.and_then(|of| of.broadcast), |of| of.broadcast);
        let (state, why) = match running {
            _ if !rule.enabled => (
                "off",
                Some("enabled is false in the config file".to_owned()),
            ),
            None => ("stopped", Some("no service runs: `handout run`".to_owned())),
            Some(running) => match (running.plan.gate(), &running.lacks) {
                (Gate::Waiting(_), _) => ("waiting", None),
                (Gate::Over, _) => ("over", Some("its deadline has passed".to_owned())),
                (Gate::Closed(_), _) => {
                    let hours = rule.terms.hours.as_ref().map(ToString::to_string);
                    ("resting", hours)
                }
                (Gate::Open, Some(reason)) => ("lacking", Some(reason.clone())),
                (Gate::Open, None) if broadcast.is_none() => ("settling", None),
                (Gate::Open, None) => ("open", None),
            },
        };
        let mut info = PlanInfo {
            series: rule.name.clone(),
            state: state.to_owned(),
            why,
            version: (memory.version > 0).then_some(memory.version),
            broadcast,
            began: memory.began,
            next: running.and_then(|of| of.plan.next_time()),
            deadline: running.and_then(|of| of.plan.deadline(now)),
            now: unix_now(),
            to: rule.to.clone(),
            unknown: running.map_or_else(Vec::new, |of| of.unknown.iter().cloned().collect()),
            receivers: Vec::new(),
        };
        if let Some(broadcast) = broadcast.filter(|_| receivers) {
            let states = self.states_of(broadcast).into_values();
            let infos = states.filter_map(|id| self.info_of(id));
            info.receivers = infos
                .map(|of| PlanReceiver {
                    reason: match &of.state {
                        TransferState::Failed { reason, .. }
                        | TransferState::Cancelled { reason, .. }
                        | TransferState::Paused { reason, .. } => Some(reason.clone()),
                        _ => None,
                    },
                    state: of.state.word().to_owned(),
                    transfer: of.transfer,
                    device_id: of.device_id,
                    name: of.device_name,
                    bytes: of.bytes,
                    size: of.size,
                })
                .collect();
        }
        info
    }
}
