//! Whether a firewall on this machine keeps out what must come in, as far as its rules tell. Rules
//! that are beyond this reader are said to be so, and never guessed at.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Finding, Level};
use crate::config::Settings;

/// How deep chains may call each other.
const DEPTH: usize = 16;

/// A packet that a stranger on the network sends to us.
#[derive(Debug, Clone, Copy)]
struct Packet {
    proto: &'static str,
    port: u16,
}

/// What the rules do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Passes,
    /// In this table and chain, as `inet filter input`.
    Dropped(String),
    /// A rule that this reader does not understand decides.
    Unsure,
}

/// Looks at the rules of nftables, and at what stands in front of them.
pub fn look(settings: &Settings) -> Vec<Finding> {
    let mut packets = vec![(
        "mDNS",
        Packet {
            proto: "udp",
            port: 5353,
        },
    )];
    if settings.signaling.port != 0 {
        packets.push((
            "signaling",
            Packet {
                proto: "tcp",
                port: settings.signaling.port,
            },
        ));
    }
    // Any port stands for all that WebRTC may take.
    packets.push((
        "files",
        Packet {
            proto: "udp",
            port: 50_000,
        },
    ));
    let front = front();
    let Some(ruleset) = output("nft", &["-j", "list", "ruleset"]) else {
        let mut finding = Finding::new(
            Level::Note,
            "firewall",
            "its rules cannot be read: only root may, and nft must be installed",
        )
        .todo("run this as root to have them judged");
        if let Some(front) = &front {
            finding = finding.todo(format!(
                "{} is active: {}",
                front.name,
                front.open(settings)
            ));
        }
        return vec![finding];
    };
    let Ok(ruleset) = serde_json::from_str::<Value>(&ruleset) else {
        let what = "nft says what is no JSON";
        return vec![Finding::new(Level::Note, "firewall", what)];
    };
    let mut found = Vec::new();
    let mut unsure = Vec::new();
    for (what, packet) in packets {
        let Packet { proto, port } = packet;
        match fate(&ruleset, packet) {
            Fate::Passes => {}
            Fate::Unsure => unsure.push(format!("{proto} {port} ({what})")),
            Fate::Dropped(chain) => {
                let any = port == 50_000;
                let named = match any {
                    true => "UDP to any port above 1023".to_owned(),
                    false => format!("{} port {port}", proto.to_ascii_uppercase()),
                };
                let ports = match any {
                    true => "1024-65535".to_owned(),
                    false => port.to_string(),
                };
                let todo = match &front {
                    Some(front) => front.open(settings),
                    None => format!("nft insert rule {chain} {proto} dport {ports} accept"),
                };
                let what = format!("{named} ({what}) is dropped by {chain}");
                found.push(Finding::new(Level::Problem, "firewall", what).todo(todo));
            }
        }
    }
    if !unsure.is_empty() {
        let what = format!(
            "rules that are not understood decide about {}",
            unsure.join(", ")
        );
        let mut finding = Finding::new(Level::Note, "firewall", what);
        if let Some(front) = &front {
            finding = finding.todo(format!(
                "{} is active: {}",
                front.name,
                front.open(settings)
            ));
        }
        found.push(finding);
    }
    if found.is_empty() {
        let what = "no rule on this machine keeps devices out";
        found.push(Finding::fine("firewall", what));
    }
    found
}

/// A program that makes the rules.
struct Front {
    name: &'static str,
}

impl Front {
    fn open(&self, settings: &Settings) -> String {
        let port = settings.signaling.port;
        let tcp = match port {
            0 => "(fix signaling.port, and let that TCP port in, too)".to_owned(),
            port if self.name == "ufw" => format!("ufw allow {port}/tcp"),
            port => format!("firewall-cmd --permanent --add-port={port}/tcp"),
        };
        match self.name {
            "ufw" => format!("ufw allow 5353/udp\nufw allow 1024:65535/udp\n{tcp}"),
            _ => format!(
                "firewall-cmd --permanent --add-service=mdns\nfirewall-cmd --permanent \
                 --add-port=1024-65535/udp\n{tcp}\nfirewall-cmd --reload"
            ),
        }
    }
}

fn front() -> Option<Front> {
    let active = output("ufw", &["status"]).is_some_and(|said| said.contains("Status: active"));
    if active {
        return Some(Front { name: "ufw" });
    }
    let runs = output("firewall-cmd", &["--state"]).is_some_and(|said| said.trim() == "running");
    runs.then_some(Front { name: "firewalld" })
}

/// What a program says, where it is there and succeeds.
fn output(program: &str, words: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command.output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said)
}

fn fate(ruleset: &Value, packet: Packet) -> Fate {
    let items = ruleset["nftables"].as_array();
    let items: Vec<&Value> = items
        .map(|items| items.iter().collect())
        .unwrap_or_default();
    let mut sure = Fate::Passes;
    for chain in items.iter().filter_map(|item| item.get("chain")) {
        let family = chain["family"].as_str().unwrap_or_default();
        if chain["hook"] != "input" || !matches!(family, "ip" | "inet") {
            continue;
        }
        let name = format!(
            "{family} {} {}",
            chain["table"].as_str().unwrap_or_default(),
            chain["name"].as_str().unwrap_or_default()
        );
        match verdict(&items, chain, packet, DEPTH) {
            Verdict::Drop => return Fate::Dropped(name),
            Verdict::Unsure => sure = Fate::Unsure,
            Verdict::Accept => {}
            Verdict::Goes if chain["policy"] == "drop" => return Fate::Dropped(name),
            Verdict::Goes => {}
        }
    }
    sure
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    /// No rule has decided.
    Goes,
    Unsure,
}

/// What the rules of a chain do with it.
fn verdict(items: &[&Value], chain: &Value, packet: Packet, depth: usize) -> Verdict {
    let Some(depth) = depth.checked_sub(1) else {
        return Verdict::Unsure;
    };
    let same = |rule: &&&Value| {
        let keys = ["family", "table"];
        keys.iter().all(|key| rule[key] == chain[key]) && rule["chain"] == chain["name"]
    };
    let rules: Vec<&Value> = items.iter().filter_map(|item| item.get("rule")).collect();
    for rule in rules.iter().filter(same) {
        let Some(parts) = rule["expr"].as_array() else {
            continue;
        };
        let mut fits = Some(true);
        for part in parts {
            let Some((word, what)) = part.as_object().and_then(|part| part.iter().next()) else {
                continue;
            };
            let decided = match word.as_str() {
                "match" => {
                    fits = match (fits, matches(what, packet)) {
                        (Some(false), _) | (_, Some(false)) => Some(false),
                        (Some(true), Some(true)) => Some(true),
                        _ => None,
                    };
                    continue;
                }
                "accept" => Verdict::Accept,
                "drop" | "reject" => Verdict::Drop,
                "return" => Verdict::Goes,
                "jump" | "goto" => {
                    let target = items.iter().filter_map(|item| item.get("chain")).find(|c| {
                        c["name"] == what["target"]
                            && ["family", "table"].iter().all(|key| c[key] == chain[key])
                    });
                    target.map_or(Verdict::Unsure, |target| {
                        verdict(items, target, packet, depth)
                    })
                }
                // These change nothing about where it goes.
                "counter" | "log" | "limit" | "comment" | "mangle" => continue,
                _ => Verdict::Unsure,
            };
            match (fits, decided) {
                (Some(false), _) => break,
                // It may or may not be about this packet: where it would do nothing new, fine.
                (None, Verdict::Goes) => break,
                (None, _) => return Verdict::Unsure,
                (Some(true), Verdict::Goes) if word == "return" => return Verdict::Goes,
                (Some(true), Verdict::Goes) => break,
                (Some(true), decided) => return decided,
            }
        }
    }
    Verdict::Goes
}

/// Whether a packet fits a part of a rule; nothing when that is beyond this reader.
fn matches(part: &Value, packet: Packet) -> Option<bool> {
    let (left, right) = (&part["left"], &part["right"]);
    let equal = match part["op"].as_str()? {
        "==" | "in" => true,
        "!=" => false,
        _ => return None,
    };
    let found = if let Some(payload) = left.get("payload") {
        match (payload["protocol"].as_str()?, payload["field"].as_str()?) {
            (proto @ ("tcp" | "udp" | "th"), "dport") => {
                (proto == "th" || proto == packet.proto) && holds_port(right, packet.port)?
            }
            // Another protocol's field is never there.
            (proto @ ("tcp" | "udp" | "icmp" | "icmpv6"), _) if proto != packet.proto => false,
            ("ip", "protocol") => holds_word(right, packet.proto)?,
            _ => return None,
        }
    } else if let Some(meta) = left.get("meta") {
        match meta["key"].as_str()? {
            "l4proto" => holds_word(right, packet.proto)?,
            "nfproto" => holds_word(right, "ipv4")?,
            // It comes from the network.
            "iifname" | "iif" if right == "lo" => false,
            _ => return None,
        }
    } else if let Some(ct) = left.get("ct") {
        match ct["key"].as_str()? {
            // It is the first of its connection.
            "state" => holds_word(right, "new")?,
            _ => return None,
        }
    } else {
        return None;
    };
    Some(found == equal)
}

fn holds_word(right: &Value, word: &str) -> Option<bool> {
    match right {
        Value::String(one) => Some(one == word),
        Value::Array(some) => Some(some.iter().any(|one| one == word)),
        Value::Object(set) => Some(set.get("set")?.as_array()?.iter().any(|one| one == word)),
        _ => None,
    }
}

fn holds_port(right: &Value, port: u16) -> Option<bool> {
    let port = u64::from(port);
    match right {
        Value::Number(one) => Some(one.as_u64() == Some(port)),
        Value::Object(object) => {
            if let Some(range) = object.get("range").and_then(Value::as_array) {
                let (low, high) = (range.first()?.as_u64()?, range.get(1)?.as_u64()?);
                return Some((low..=high).contains(&port));
            }
            let mut any = false;
            for one in object.get("set")?.as_array()? {
                any |= holds_port(one, port as u16)?;
            }
            Some(any)
        }
        // The name of a port, or of a set that is somewhere else.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(chain: &str, expr: Value) -> Value {
        json!({"rule": {"family": "inet", "table": "filter", "chain": chain, "expr": expr}})
    }

    fn ruleset(policy: &str, rules: &[Value]) -> Value {
        let mut items = vec![
            json!({"chain": {"family": "inet", "table": "filter", "name": "input",
                             "hook": "input", "policy": policy}}),
            json!({"chain": {"family": "inet", "table": "filter", "name": "lan"}}),
        ];
        items.extend(rules.iter().cloned());
        json!({ "nftables": items })
    }

    fn dport(proto: &str, right: Value) -> Value {
        json!({"match": {"op": "==", "right": right,
                         "left": {"payload": {"protocol": proto, "field": "dport"}}}})
    }

    const MDNS: Packet = Packet {
        proto: "udp",
        port: 5353,
    };

    fn dropped() -> Fate {
        Fate::Dropped("inet filter input".to_owned())
    }

    #[test]
    fn a_policy_of_drop_keeps_out_what_no_rule_lets_in() {
        assert_eq!(fate(&ruleset("accept", &[]), MDNS), Fate::Passes);
        assert_eq!(fate(&json!({"nftables": []}), MDNS), Fate::Passes);
        assert_eq!(fate(&ruleset("drop", &[]), MDNS), dropped());
        let established = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}},
                                           "right": ["established", "related"]}});
        let lo =
            json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}});
        let ssh = dport("tcp", json!(22));
        let usual = [
            rule("input", json!([established, {"accept": null}])),
            rule("input", json!([lo, {"accept": null}])),
            rule(
                "input",
                json!([ssh, {"counter": {"packets": 1}}, {"accept": null}]),
            ),
        ];
        assert_eq!(fate(&ruleset("drop", &usual), MDNS), dropped());
        for ports in [
            json!(5353),
            json!({"range": [5000, 6000]}),
            json!({"set": [22, {"range": [5353, 5354]}]}),
        ] {
            let lets_in = rule("input", json!([dport("udp", ports), {"accept": null}]));
            let rules = [&usual[..], &[lets_in]].concat();
            assert_eq!(fate(&ruleset("drop", &rules), MDNS), Fate::Passes);
        }
    }

    #[test]
    fn rules_that_drop_count_in_their_order_and_in_other_chains() {
        let drops = rule("input", json!([dport("udp", json!(5353)), {"drop": null}]));
        let accepts = rule("input", json!([{"accept": null}]));
        let both = [drops.clone(), accepts.clone()];
        assert_eq!(fate(&ruleset("accept", &both), MDNS), dropped());
        let both = [accepts, drops];
        assert_eq!(fate(&ruleset("accept", &both), MDNS), Fate::Passes);
        let jumps = rule("input", json!([{"jump": {"target": "lan"}}]));
        let rejects = rule("lan", json!([dport("udp", json!(5353)), {"reject": null}]));
        assert_eq!(fate(&ruleset("accept", &[jumps, rejects]), MDNS), dropped());
    }

    #[test]
    fn what_is_not_understood_is_said_to_be_so() {
        let strange =
            json!({"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 7}});
        let unsure = rule("input", json!([strange, {"accept": null}]));
        assert_eq!(fate(&ruleset("drop", &[unsure]), MDNS), Fate::Unsure);
        let xt = rule(
            "input",
            json!([{"xt": {"type": "match", "name": "multiport"}}]),
        );
        assert_eq!(fate(&ruleset("drop", &[xt]), MDNS), Fate::Unsure);
        let turns = rule("input", json!([{"jump": {"target": "input"}}]));
        assert_eq!(fate(&ruleset("accept", &[turns]), MDNS), Fate::Unsure);
    }
}
