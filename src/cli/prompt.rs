//! Asking the person at the terminal about offers: one at a time, yes or no.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use tokio::sync::mpsc;

use super::screen::Screen;
use super::view::question;
use crate::actors::api::{Event, Request};
use crate::actors::service::Node;
use crate::protocol::id::TransferId;
use crate::protocol::message::Code;
use crate::protocol::transfer::TransferState;

/// How long it takes until typing is noticed after the process came back to the foreground.
const FOREGROUND_POLL: Duration = Duration::from_millis(300);

/// Puts questions to the person at the terminal from now on; false where there is none.
pub fn start(node: &Node, screen: &Screen) -> bool {
    if screen.is_json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let (lines, typed) = mpsc::channel(1);
    // Reading cannot be interrupted: the thread ends with the process.
    std::thread::spawn(move || read_lines(&lines));
    actix::spawn(converse(node.clone(), screen.clone(), typed));
    true
}

/// Hands on what is typed. In the background nothing is read: the system would stop the process
/// for it.
fn read_lines(lines: &mpsc::Sender<String>) {
    let stdin = io::stdin();
    loop {
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        if tcgetpgrp(&stdin) != Ok(getpgrp()) {
            #[expect(
                clippy::disallowed_methods,
                reason = "a thread of its own, and nothing tells when a job comes to the foreground"
            )]
            std::thread::sleep(FOREGROUND_POLL);
            continue;
        }
        let mut line = String::new();
        match stdin.read_line(&mut line) {
            Ok(1..) if lines.blocking_send(line).is_ok() => {}
            _ => return,
        }
    }
}

async fn converse(node: Node, screen: Screen, mut typed: mpsc::Receiver<String>) {
    let mut events = node.ask(Request::Watch);
    let mut questions = Questions::default();
    loop {
        let request = tokio::select! {
            event = events.recv() => match event {
                None => return,
                Some(event) => {
                    if let Some(line) = questions.on_event(&event) {
                        screen.note(&line);
                    }
                    continue;
                }
            },
            line = typed.recv() => match line {
                // Nobody can type any more; other terminals can still answer.
                None => return,
                Some(line) => questions.on_line(&line),
            },
        };
        if let Some(request) = request {
            let mut answer = node.ask(request);
            while answer.recv().await.is_some() {}
        }
        if let Some(line) = questions.next() {
            screen.note(&line);
        }
    }
}

/// What is being asked, the first one now.
#[derive(Debug, Default)]
struct Questions(VecDeque<(TransferId, String)>);

impl Questions {
    /// A line to show, if there is news.
    fn on_event(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Asked { transfer, .. } if !self.0.iter().any(|(id, _)| id == transfer) => {
                self.0.push_back((*transfer, question(event)?));
                (self.0.len() == 1).then(|| self.next()).flatten()
            }
            Event::Transfer(info) if !is_asked(&info.state) => {
                let at = self.0.iter().position(|(id, _)| *id == info.transfer)?;
                self.0.remove(at);
                // Answered elsewhere, or too late: the next one's turn.
                (at == 0).then(|| self.next()).flatten()
            }
            _ => None,
        }
    }

    /// What a typed line asks for. Whatever is neither yes nor no is no answer, and what is typed
    /// while nothing is asked means nothing.
    fn on_line(&mut self, line: &str) -> Option<Request> {
        let (id, _) = self.0.front()?;
        let what = id.to_string();
        let request = match line.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Request::Accept { what },
            "n" | "no" => Request::Refuse { what },
            _ => return None,
        };
        self.0.pop_front();
        Some(request)
    }

    /// The question to be shown now.
    fn next(&self) -> Option<String> {
        let (_, text) = self.0.front()?;
        Some(format!("{text}. Take it? y or n, then Enter"))
    }
}

fn is_asked(state: &TransferState) -> bool {
    let code = Code::Asking;
    matches!(state, TransferState::Paused { code: c, .. } if *c == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::api::TransferInfo;
    use crate::protocol::id::DeviceId;
    use crate::protocol::transfer::{Direction, Side};

    fn asked(n: u8) -> Event {
        Event::Asked {
            transfer: TransferId([n; 16]),
            device_id: DeviceId::of_key(&[1; 32]),
            device_name: "alpha".to_owned(),
            name: format!("slides-{n}\u{1b}[2J"),
            size: 10,
            files: Some(1),
            until: 0,
        }
    }

    fn now_is(n: u8, state: TransferState) -> Event {
        Event::Transfer(TransferInfo {
            transfer: TransferId([n; 16]),
            broadcast: None,
            direction: Direction::Incoming,
            device_id: DeviceId::of_key(&[1; 32]),
            device_name: "alpha".to_owned(),
            name: "slides".to_owned(),
            bytes: 0,
            size: 10,
            state,
            waits: None,
        })
    }

    fn what(request: Option<Request>) -> Option<(bool, String)> {
        match request? {
            Request::Accept { what } => Some((true, what)),
            Request::Refuse { what } => Some((false, what)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions_are_answered_one_at_a_time_and_only_with_yes_or_no() {
        let id = |n: u8| TransferId([n; 16]).to_string();
        let mut questions = Questions::default();
        assert!(questions.on_line("y").is_none());
        let shown = questions.on_event(&asked(1)).unwrap();
        assert!(shown.contains("alpha offers slides-1") && !shown.contains('\u{1b}'));
        assert_eq!(questions.on_event(&asked(1)), None);
        assert_eq!(questions.on_event(&asked(2)), None);
        assert!(questions.on_line("").is_none() && questions.on_line("maybe").is_none());
        assert_eq!(what(questions.on_line(" Y ")), Some((true, id(1))));
        assert!(questions.next().unwrap().contains("slides-2"));
        assert_eq!(what(questions.on_line("no")), Some((false, id(2))));
        assert!(questions.next().is_none());
    }

    #[test]
    fn a_question_that_was_answered_elsewhere_is_not_asked_any_more() {
        let mut questions = Questions::default();
        for n in 1..=3 {
            questions.on_event(&asked(n));
        }
        let waiting = TransferState::Paused {
            by: Side::Ours,
            code: Code::Asking,
            reason: String::new(),
        };
        assert_eq!(questions.on_event(&now_is(1, waiting)), None);
        assert_eq!(questions.on_event(&now_is(2, TransferState::Pending)), None);
        let shown = questions.on_event(&now_is(1, TransferState::Pending));
        assert!(shown.unwrap().contains("slides-3"));
    }
}
