//! Plans on virtual time: a folder, a clock that may be moved, and what the plan makes of them.

use std::time::Duration;

use super::calendar::{LocalTime, Schedule, Zone, opens};
use super::*;
use crate::protocol::hours::Hours;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const TEN_YEARS: i64 = 3653 * 86_400;

fn berlin() -> Zone {
    "Europe/Berlin".parse().unwrap()
}

fn at(text: &str) -> u64 {
    text.parse::<LocalTime>().unwrap().unix(berlin())
}

fn shown(unix: u64) -> String {
    berlin()
        .local(unix)
        .unwrap()
        .format("%m-%d %H:%M")
        .to_string()
}

fn terms() -> Terms {
    Terms {
        start: Start::Now,
        zone: berlin(),
        hours: None,
        deadline: None,
        always: false,
        watch: true,
        settle: Duration::from_secs(2),
        settle_max: Duration::from_secs(60),
        rescan: Duration::from_secs(60),
    }
}

fn hours(text: &str) -> Hours {
    text.parse().unwrap()
}

fn every(cron: &str) -> Start {
    Start::Schedule(cron.parse().unwrap())
}

/// A machine with one plan.
struct World {
    plan: Plan,
    terms: Terms,
    clock: Clock,
    unix: u64,
    mono: Duration,
    /// What the folder looks like; nothing where it is missing.
    folder: Option<String>,
    /// What happened, and when by the clock.
    log: Vec<(u64, String)>,
    looks: usize,
    versions: Vec<u64>,
}

impl World {
    fn new(terms: Terms, begins: &str) -> Self {
        let (unix, mono) = (at(begins), Duration::ZERO);
        let mut clock = Clock::default();
        let (now, _) = clock.tell(unix, mono);
        Self {
            plan: Plan::new(terms.clone(), Memory::default(), now),
            terms,
            clock,
            unix,
            mono,
            folder: Some("a".to_owned()),
            log: Vec::new(),
            looks: 0,
            versions: Vec::new(),
        }
    }

    /// The process ends, time passes, and another begins.
    fn restart_after(&mut self, seconds: u64) {
        self.unix += seconds;
        self.mono = Duration::ZERO;
        self.clock = Clock::default();
        let (now, _) = self.clock.tell(self.unix, self.mono);
        self.plan = Plan::new(self.terms.clone(), self.plan.memory().clone(), now);
    }

    fn move_clock(&mut self, seconds: i64) {
        self.unix = self.unix.saturating_add_signed(seconds);
    }

    fn tell(&mut self, input: Input) {
        let (now, _) = self.clock.tell(self.unix, self.mono);
        for output in self.plan.on(input, now) {
            let reply = match output {
                Output::Look => {
                    self.looks += 1;
                    Some(match &self.folder {
                        Some(digest) => Input::Looked(digest.clone()),
                        None => Input::Missing("it is not there".to_owned()),
                    })
                }
                Output::Begin { version, digest } => {
                    assert!(self.versions.iter().all(|before| *before < version));
                    self.versions.push(version);
                    let count = self.versions.len();
                    self.log
                        .push((self.unix, format!("version {count}: {digest}")));
                    Some(Input::Begun { version, digest })
                }
                Output::Again { everybody } => {
                    self.log
                        .push((self.unix, format!("again, everybody: {everybody}")));
                    None
                }
                Output::Gate(gate) => {
                    let word = match gate {
                        Gate::Waiting(_) => continue,
                        Gate::Open => "open",
                        Gate::Closed(_) => "closed",
                        Gate::Over => "over",
                    };
                    self.log.push((self.unix, word.to_owned()));
                    None
                }
                Output::Lacking(_) => {
                    self.log.push((self.unix, "lacking".to_owned()));
                    None
                }
                Output::Found => {
                    self.log.push((self.unix, "found".to_owned()));
                    None
                }
            };
            if let Some(reply) = reply {
                self.tell(reply);
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        self.run_by(seconds, 1);
    }

    fn run_by(&mut self, seconds: u64, step: u64) {
        for _ in 0..seconds.div_ceil(step) {
            self.tell(Input::Tick);
            self.unix += step;
            self.mono += Duration::from_secs(step);
        }
    }

    /// What happened since this was last asked.
    fn happened(&mut self) -> Vec<String> {
        self.log.drain(..).map(|(_, what)| what).collect()
    }

    /// The same, with times.
    fn when(&mut self) -> Vec<String> {
        let said = self.log.drain(..);
        said.map(|(unix, what)| format!("{} {what}", shown(unix)))
            .collect()
    }
}

#[test]
fn content_begins_when_it_has_settled_and_each_change_is_a_new_version() {
    let mut world = World::new(terms(), "2026-03-02 08:00");
    world.run(10);
    assert_eq!(world.happened(), ["open", "version 1: a"]);
    for n in 0..5 {
        world.folder = Some(format!("b{n}"));
        world.tell(Input::Stirred);
        world.run(1);
    }
    world.run(10);
    assert_eq!(
        world.happened(),
        ["version 2: b4"],
        "what is half copied is not sent"
    );
    // The system may say nothing of a change: it is found all the same.
    world.folder = Some("c".to_owned());
    world.run(70);
    assert_eq!(world.happened(), ["version 3: c"]);
}

#[test]
fn a_folder_that_never_rests_is_sent_at_some_time() {
    let mut world = World::new(terms(), "2026-03-02 08:00");
    world.run(10);
    world.happened();
    for n in 0..130 {
        world.folder = Some(format!("n{n}"));
        world.tell(Input::Stirred);
        world.run(1);
    }
    let versions = world.happened();
    assert_eq!(versions.len(), 2, "one each minute: {versions:?}");
}

#[test]
fn without_watching_a_change_is_found_at_the_next_start_only() {
    let mut world = World::new(
        Terms {
            watch: false,
            ..terms()
        },
        "2026-03-02 08:00",
    );
    world.run(10);
    let looks = world.looks;
    world.folder = Some("b".to_owned());
    world.tell(Input::Stirred);
    world.run_by(DAY, 60);
    assert_eq!(world.happened(), ["open", "version 1: a"]);
    assert_eq!(world.looks, looks);
    world.restart_after(60);
    world.run(10);
    assert_eq!(world.happened(), ["open", "version 2: b"]);
}

#[test]
fn a_restart_in_the_middle_repeats_nothing() {
    let mut world = World::new(terms(), "2026-03-02 08:00");
    world.run(10);
    world.happened();
    for _ in 0..5 {
        world.restart_after(30);
        world.run(200);
        assert_eq!(
            world.happened(),
            ["open"],
            "the same content is the same version"
        );
    }
}

#[test]
fn what_changes_while_it_is_sent_is_a_new_version_and_never_tried_in_haste() {
    let mut world = World::new(
        Terms {
            watch: false,
            ..terms()
        },
        "2026-03-02 08:00",
    );
    world.run(10);
    world.happened();
    world.folder = Some("b".to_owned());
    world.tell(Input::Spoiled);
    world.run(10);
    assert_eq!(world.happened(), ["version 2: b"]);
    // Its size and time are the same, and yet it is not what was hashed.
    for _ in 0..600 {
        world.tell(Input::Spoiled);
        world.run(1);
    }
    let tries = world.happened().len();
    assert!((5..=10).contains(&tries), "{tries}");
}

#[test]
fn a_missing_folder_is_said_once_and_waited_for() {
    let mut world = World::new(terms(), "2026-03-02 08:00");
    world.folder = None;
    world.run(HOUR);
    assert_eq!(world.happened(), ["open", "lacking"]);
    world.folder = Some("a".to_owned());
    world.run(70);
    assert_eq!(world.happened(), ["found", "version 1: a"]);
    world.folder = None;
    world.run(600);
    world.folder = Some("a".to_owned());
    world.run(600);
    assert_eq!(
        world.happened(),
        ["lacking", "found"],
        "it came back as it was"
    );
}

#[test]
fn a_start_at_a_time_is_waited_for() {
    let start = Start::At("2026-03-02 08:00".parse().unwrap());
    let mut world = World::new(Terms { start, ..terms() }, "2026-03-01 20:00");
    world.run_by(11 * HOUR, 10);
    assert_eq!((world.happened(), world.looks), (vec![], 0));
    assert_eq!(world.plan.next_time(), Some(at("2026-03-02 08:00")));
    world.run_by(2 * HOUR, 10);
    assert_eq!(
        world.when(),
        ["03-02 08:00 open", "03-02 08:00 version 1: a"]
    );
    world.restart_after(DAY);
    world.run(60);
    assert_eq!(world.happened(), ["open"], "it has begun for good");
}

#[test]
fn a_schedule_begins_nothing_between_its_times() {
    let start = every("0 8 * * 1-5");
    let mut world = World::new(
        Terms {
            start,
            watch: false,
            ..terms()
        },
        "2026-03-06 12:00", // a Friday
    );
    world.run_by(2 * DAY, 60);
    assert_eq!(world.happened(), [""; 0]);
    assert_eq!(world.plan.next_time(), Some(at("2026-03-09 08:00")));
    world.run_by(DAY, 60);
    world.folder = Some("b".to_owned());
    world.run_by(DAY, 60);
    assert_eq!(
        world.when(),
        [
            "03-09 08:00 open",
            "03-09 08:01 version 1: a",
            "03-10 08:01 version 2: b",
        ]
    );
    world.run_by(DAY, 60);
    assert_eq!(
        world.happened(),
        ["again, everybody: false"],
        "those who still miss it"
    );
}

#[test]
fn a_schedule_may_send_the_same_content_again_to_everybody() {
    let start = every("0 8 * * *");
    let (always, watch) = (true, false);
    let mut world = World::new(
        Terms {
            start,
            always,
            watch,
            ..terms()
        },
        "2026-03-02 07:00",
    );
    world.run_by(3 * DAY, 60);
    assert_eq!(
        world.happened(),
        [
            "open",
            "version 1: a",
            "again, everybody: true",
            "again, everybody: true"
        ]
    );
}

#[test]
fn a_schedule_that_was_slept_through_fires_once() {
    let start = every("*/5 * * * *");
    let (always, watch) = (true, false);
    let mut world = World::new(
        Terms {
            start,
            always,
            watch,
            ..terms()
        },
        "2026-03-02 07:58",
    );
    world.run(600);
    assert_eq!(world.happened().len(), 3, "08:00, 08:05");
    world.restart_after(30 * DAY);
    world.run(60);
    assert_eq!(world.happened(), ["open", "again, everybody: true"]);
}

#[test]
fn a_schedule_fires_although_the_former_version_is_pending_and_gives_it_a_new_deadline() {
    let start = every("0 8 * * *");
    let deadline = Some(Deadline::After(Duration::from_secs(2 * HOUR)));
    let mut world = World::new(
        Terms {
            start,
            deadline,
            watch: false,
            ..terms()
        },
        "2026-03-02 07:00",
    );
    world.run_by(2 * DAY, 30);
    assert_eq!(
        world.when(),
        [
            "03-02 08:00 open",
            "03-02 08:00 version 1: a",
            "03-02 10:00 over",
            "03-03 08:00 again, everybody: false",
            "03-03 08:00 open",
            "03-03 10:00 over",
        ]
    );
}

#[test]
fn another_schedule_counts_from_when_it_is_read() {
    let start = every("0 0 1 1 *");
    let yearly = Terms {
        start,
        watch: false,
        ..terms()
    };
    let mut world = World::new(yearly.clone(), "2026-03-02 12:00");
    world.run_by(3 * DAY, 60);
    let (now, _) = world.clock.tell(world.unix, world.mono);
    let start = every("30 7 * * *");
    world.plan.change(Terms { start, ..yearly }, now);
    world.run_by(3600, 60);
    assert_eq!(world.happened(), [""; 0], "no morning was missed");
    assert_eq!(world.plan.next_time(), Some(at("2026-03-06 07:30")));
    world.run_by(DAY, 60);
    assert_eq!(
        world.when(),
        ["03-06 07:30 open", "03-06 07:31 version 1: a"]
    );
}

#[test]
fn summer_time_neither_skips_nor_doubles_a_daily_time() {
    // 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
    let schedule: Schedule = "30 2 * * *".parse().unwrap();
    let fires = |from: &str, count: usize| {
        let mut times = vec![at(from)];
        for _ in 0..count {
            times.push(schedule.next(*times.last().unwrap(), berlin()).unwrap());
        }
        times
            .split_off(1)
            .into_iter()
            .map(shown)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        fires("2026-03-28 00:00", 3),
        ["03-28 02:30", "03-29 03:00", "03-30 02:30"]
    );
    assert_eq!(
        fires("2026-10-24 00:00", 3),
        ["10-24 02:30", "10-25 02:30", "10-26 02:30"]
    );
    let mut world = World::new(
        Terms {
            start: Start::Schedule(schedule),
            always: true,
            watch: false,
            ..terms()
        },
        "2026-10-24 12:00",
    );
    world.run_by(2 * DAY, 30);
    assert_eq!(
        world.happened(),
        ["open", "version 1: a", "again, everybody: true"]
    );
}

#[test]
fn a_time_that_does_not_exist_is_the_first_one_after_it_and_a_double_one_the_first() {
    assert_eq!(at("2026-03-29 02:30"), at("2026-03-29 03:00"));
    assert_eq!(
        at("2026-10-25 02:30") + HOUR / 2 + HOUR,
        at("2026-10-25 03:00")
    );
}

#[test]
fn hours_are_those_of_the_wall_also_over_midnight_and_in_summer_time() {
    let night = hours("Fri 22:00-06:00");
    let open = |hours: &Hours, text: &str| hours.is_open(berlin().local(at(text)).unwrap());
    assert!(!open(&night, "2026-03-06 21:59"));
    assert!(open(&night, "2026-03-06 22:00"));
    assert!(
        open(&night, "2026-03-07 05:59"),
        "Saturday morning belongs to it"
    );
    assert!(!open(&night, "2026-03-07 06:00"));
    assert!(!open(&night, "2026-03-06 05:00"), "Thursday has none");
    let terms = Terms {
        hours: Some(hours("Sat-Sun 22:00-06:00")),
        ..terms()
    };
    // The night in which an hour is left out.
    let mut world = World::new(terms.clone(), "2026-03-28 12:00");
    world.run_by(20 * HOUR, 60);
    assert_eq!(
        world.when(),
        [
            "03-28 12:00 closed",
            "03-28 22:00 open",
            "03-28 22:01 version 1: a",
            "03-29 06:00 closed"
        ]
    );
    assert_eq!(world.mono, Duration::from_secs(20 * HOUR));
    // The one in which an hour comes twice: 9 hours long.
    let mut world = World::new(terms, "2026-10-24 21:00");
    world.run_by(12 * HOUR, 60);
    let opened = world.log.iter().find(|(_, what)| what == "open").unwrap().0;
    let closed = world.log.last().unwrap().0;
    assert_eq!(closed - opened, 9 * HOUR);
}

#[test]
fn outside_of_its_hours_nothing_begins_and_a_change_waits() {
    let terms = Terms {
        hours: Some(hours("Mon-Fri 08:00-16:00")),
        ..terms()
    };
    let mut world = World::new(terms, "2026-03-06 15:00");
    world.run_by(2 * HOUR, 30);
    assert_eq!(world.happened(), ["open", "version 1: a", "closed"]);
    assert_eq!(
        world.plan.gate(),
        Gate::Closed(Some(at("2026-03-09 08:00")))
    );
    let looks = world.looks;
    world.folder = Some("b".to_owned());
    world.tell(Input::Stirred);
    world.run_by(2 * DAY, 60);
    assert_eq!((world.happened(), world.looks), (vec![], looks));
    world.run_by(DAY, 30);
    assert_eq!(
        world.when(),
        [
            "03-09 08:00 open",
            "03-09 08:00 version 2: b",
            "03-09 16:00 closed"
        ]
    );
}

#[test]
fn other_hours_hold_at_once_whether_it_is_open_or_rests() {
    let with = |text| Terms {
        hours: Some(hours(text)),
        ..terms()
    };
    let mut world = World::new(with("08:00-16:00"), "2026-03-06 15:00");
    world.run(60);
    let mut change = |text| {
        let (now, _) = world.clock.tell(world.unix, world.mono);
        world.plan.change(with(text), now);
        world.run(5);
        world.plan.gate()
    };
    let rests = |until| Gate::Closed(Some(at(until)));
    assert_eq!(change("09:00-12:00"), rests("2026-03-07 09:00"));
    assert_eq!(change("20:00-22:00"), rests("2026-03-06 20:00"));
    assert_eq!(change("12:00-18:00"), Gate::Open);
    assert_eq!(
        world.happened(),
        ["open", "version 1: a", "closed", "closed", "open"]
    );
}

#[test]
fn a_deadline_ends_the_waiting_and_a_new_version_has_its_own() {
    let deadline = Some(Deadline::After(Duration::from_secs(2 * HOUR)));
    let mut world = World::new(
        Terms {
            deadline,
            ..terms()
        },
        "2026-03-02 08:00",
    );
    world.run_by(3 * HOUR, 10);
    assert_eq!(
        world.when(),
        [
            "03-02 08:00 open",
            "03-02 08:00 version 1: a",
            "03-02 10:00 over"
        ]
    );
    world.folder = Some("b".to_owned());
    world.run_by(3 * HOUR, 10);
    assert_eq!(world.happened(), ["version 2: b", "open", "over"]);
}

#[test]
fn a_deadline_counts_over_a_restart_and_while_the_machine_is_off() {
    let deadline = Some(Deadline::After(Duration::from_secs(2 * HOUR)));
    let mut world = World::new(
        Terms {
            deadline,
            ..terms()
        },
        "2026-03-02 08:00",
    );
    world.run_by(HOUR, 10);
    world.restart_after(HOUR / 2);
    world.happened();
    world.run_by(HOUR, 10);
    assert_eq!(world.when(), ["03-02 09:30 open", "03-02 10:00 over"]);
}

#[test]
fn a_clock_that_jumps_ends_no_deadline_that_is_counted_in_this_run() {
    let deadline = Some(Deadline::After(Duration::from_secs(2 * HOUR)));
    for by in [TEN_YEARS, -TEN_YEARS] {
        let mut world = World::new(
            Terms {
                deadline,
                ..terms()
            },
            "2026-03-02 08:00",
        );
        world.run_by(HOUR, 10);
        world.happened();
        world.move_clock(by);
        world.run_by(HOUR - 60, 10);
        assert_eq!(world.happened(), [""; 0], "{by}");
        world.run_by(120, 10);
        assert_eq!(world.happened(), ["over"], "{by}");
    }
}

#[test]
fn a_clock_that_was_wrong_at_the_start_ends_a_deadline_only_until_it_is_right() {
    let deadline = Some(Deadline::After(Duration::from_secs(2 * HOUR)));
    let mut world = World::new(
        Terms {
            deadline,
            ..terms()
        },
        "2026-03-02 08:00",
    );
    world.run_by(HOUR, 10);
    world.happened();
    world.move_clock(TEN_YEARS);
    world.restart_after(60);
    world.run_by(600, 10);
    assert_eq!(world.happened(), ["over"]);
    world.move_clock(-TEN_YEARS);
    world.run_by(600, 10);
    assert_eq!(world.happened(), ["open"]);
    // And one that is behind does not make it wait for ten years.
    world.move_clock(-TEN_YEARS);
    world.restart_after(60);
    world.run_by(2 * HOUR + 60, 10);
    assert_eq!(world.happened(), ["open", "over"]);
}

#[test]
fn a_clock_that_jumps_fires_a_schedule_once_at_most_and_it_goes_on_when_it_is_back() {
    let start = every("*/5 * * * *");
    let (always, watch) = (true, false);
    for by in [TEN_YEARS, -TEN_YEARS] {
        let terms = Terms {
            start: start.clone(),
            always,
            watch,
            ..terms()
        };
        let mut world = World::new(terms, "2026-03-02 08:01");
        world.run(600);
        assert_eq!(world.happened().len(), 3);
        world.move_clock(by);
        world.run(100);
        assert_eq!(
            world.happened(),
            [""; 0],
            "a clock that jumped is not believed at once"
        );
        world.run(30 * 60);
        let wrong = world.happened().len();
        assert!(
            (5..=8).contains(&wrong),
            "every five minutes, not {wrong} times"
        );
        world.move_clock(-by);
        world.run(30 * 60);
        let back = world.happened().len();
        assert!((5..=7).contains(&back), "{back} after {by}");
    }
}

#[test]
fn a_small_step_back_fires_nothing_twice() {
    let start = every("0 8 * * *");
    let mut world = World::new(
        Terms {
            start,
            always: true,
            watch: false,
            ..terms()
        },
        "2026-03-02 07:59",
    );
    world.run(65);
    world.move_clock(-10);
    world.run(HOUR);
    assert_eq!(world.happened(), ["open", "version 1: a"]);
}

#[test]
fn an_absolute_deadline_is_that_of_the_clock_once_it_is_steady() {
    let deadline = Some(Deadline::At("2026-03-02 12:00".parse().unwrap()));
    let mut world = World::new(
        Terms {
            deadline,
            ..terms()
        },
        "2026-03-02 08:00",
    );
    world.run_by(HOUR, 10);
    world.move_clock(TEN_YEARS);
    world.run_by(60, 10);
    world.move_clock(-TEN_YEARS);
    world.run_by(2 * HOUR, 10);
    assert_eq!(world.happened(), ["open", "version 1: a"]);
    world.run_by(2 * HOUR, 10);
    assert_eq!(world.when(), ["03-02 12:00 over"]);
    world.folder = Some("b".to_owned());
    world.run_by(HOUR, 10);
    assert_eq!(world.happened(), [""; 0], "nothing begins after it");
}

#[test]
fn hours_that_no_clock_shows_are_left_out() {
    // 02:15 to 02:45 does not exist on the last Sunday of March.
    let sundays = hours("Sun 02:15-02:45");
    let before = at("2026-03-28 12:00");
    assert_eq!(
        opens(&sundays, before, berlin()),
        Some(at("2026-04-05 02:15"))
    );
}
