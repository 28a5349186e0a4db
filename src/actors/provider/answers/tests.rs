use super::*;
use crate::protocol::provider::{Argument, Kind, Parameter, Parameters};

fn rule(script: &str) -> ProviderRule {
    let words = ["-c", script, "sh", "{output}", "{text}"];
    let arguments = words.iter().map(|word| Argument::new(word).unwrap());
    let text = Parameter::needed(Kind::Text { max_length: 100 });
    ProviderRule {
        name: "test".to_owned(),
        origin: Origin::Command {
            program: "/bin/sh".to_owned(),
            arguments: arguments.collect(),
        },
        parameters: Parameters([("text".to_owned(), text)].into()),
        max_size: 1000,
        timeout: Duration::from_secs(20),
        ..ProviderRule::built_in().remove(0)
    }
}

struct Bench {
    answers: Arc<Answers>,
    runs: PathBuf,
    state: tempfile::TempDir,
}

fn bench(script: &str, change: impl FnOnce(&mut ProviderRule)) -> Bench {
    let state = tempfile::tempdir().unwrap();
    let runs = state.path().join("runs");
    // Counts its runs.
    let script = format!("echo >> '{}'; {script}", runs.display());
    let mut rule = rule(&script);
    change(&mut rule);
    let folder = Arc::new(Folder::new(state.path()).unwrap());
    Bench {
        answers: Arc::new(Answers::new(rule, folder, 0)),
        runs,
        state,
    }
}

impl Bench {
    fn values(&self, text: &str) -> Values {
        let json = serde_json::json!({ "text": text }).to_string();
        self.answers.rule.parameters.check(&json).unwrap()
    }

    async fn get(&self, text: &str) -> Result<Arc<Answer>, AnswerError> {
        self.answers.get(&self.values(text)).await
    }

    fn runs(&self) -> usize {
        fs::read_to_string(&self.runs)
            .unwrap_or_default()
            .lines()
            .count()
    }

    fn files(&self) -> usize {
        let all = fs::read_dir(self.state.path().join(FOLDER)).unwrap();
        let count = |dir: PathBuf| fs::read_dir(dir).unwrap().count();
        all.map(|entry| count(entry.unwrap().path())).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_ask_for_at_once_is_made_once_and_removed_when_nobody_needs_it() {
    let bench = Arc::new(bench("printf %s \"$2\" > \"$1\"", |_| {}));
    let hostile = "a b; $(reboot) `x` '\"";
    let all = (0..8).map(|_| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.get(hostile).await.unwrap() })
    });
    for answer in futures::future::join_all(all).await {
        let answer = answer.unwrap();
        assert_eq!(fs::read_to_string(&answer.path).unwrap(), hostile);
        assert_eq!(answer.size, hostile.len() as u64);
    }
    assert_eq!((bench.runs(), bench.files()), (1, 1));
    bench.get("other").await.unwrap();
    assert_eq!((bench.runs(), bench.files()), (2, 2));
    let held = bench.get("other").await.unwrap();
    assert!(held.path.exists());
    let bench = Arc::into_inner(bench).unwrap();
    let state = bench.state.path().join(FOLDER);
    drop(bench.answers);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_one_that_is_too_large_to_be_kept_share_it() {
    let wait = "until [ -e ../../../go ]; do sleep 0.01; done; ";
    let script = format!("{wait} printf %s \"$2\" > \"$1\"");
    let bench = Arc::new(bench(&script, |rule| rule.cache_size = 1));
    let all = (0..8).map(|_| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.get("large").await.unwrap() })
    });
    let all: Vec<_> = all.collect();
    let key = bench.values("large").key(&bench.answers.rule.name);
    let waiting = || {
        lock(&bench.answers.slots)
            .get(&key)
            .map_or(0, Arc::strong_count)
    };
    while waiting() < 1 + all.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fs::write(bench.state.path().join("go"), "").unwrap();
    let got = futures::future::join_all(all).await;
    assert_eq!((bench.runs(), bench.files()), (1, 1));
    drop(got);
    assert_eq!(bench.files(), 0);
    // Later ones get their own.
    bench.get("large").await.unwrap();
    assert_eq!(bench.runs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_goes_though_nobody_asks_any_more() {
    let bench = bench("printf x > \"$1\"", |rule| {
        rule.cache_for = Duration::from_millis(200)
    });
    bench.get("a").await.unwrap();
    assert_eq!(bench.files(), 1);
    let gone = async {
        while bench.files() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = [Arc::clone(&bench.answers)];
    let tidying = super::keep_tidy(all.iter(), Duration::from_millis(20));
    tokio::select! {
        () = tidying => panic!("it goes on"),
        gone = tokio::time::timeout(Duration::from_secs(20), gone) => gone.unwrap(),
    }
    assert!(lock(&bench.answers.kept).is_empty());
}

#[test]
fn no_text_of_a_request_is_an_option_of_a_command() {
    let bench = bench("true", |_| {});
    let check = |text: &str| bench.answers.check(&bench.values(text));
    assert!(check("plain").is_ok());
    let error = check("-rf").unwrap_err();
    assert!(
        matches!(&error, AnswerError::Request(said) if said.contains("text")),
        "{error}"
    );
    assert_eq!(bench.runs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_keeps_no_more_and_no_longer_than_it_may() {
    let write = "printf %s \"$2\" > \"$1\"";
    let small = bench(write, |rule| rule.cache_size = 10);
    for text in ["12345", "67890", "abcde"] {
        small.get(text).await.unwrap();
    }
    assert_eq!(small.files(), 2, "the oldest had to go");
    small.get("larger than the cache").await.unwrap();
    assert_eq!(small.files(), 2, "and that one is not kept");
    assert_eq!(small.runs(), 4);
    small.get("abcde").await.unwrap();
    assert_eq!(small.runs(), 4);
    let short = bench(write, |rule| rule.cache_for = Duration::ZERO);
    short.get("a").await.unwrap();
    short.get("a").await.unwrap();
    assert_eq!(short.runs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_fail_write_nothing_or_too_much_make_no_answer_and_leave_nothing() {
    for script in [
        "exit 3",
        "exit 0",
        "yes | head -c 5000 > \"$1\"",
        "ln -s /etc/passwd \"$1\"",
        "mkdir \"$1\"",
    ] {
        let bench = bench(script, |_| {});
        let error = bench.get("x").await.unwrap_err();
        assert!(matches!(error, AnswerError::Here), "{script}: {error}");
        assert_eq!(bench.files(), 0, "{script}");
    }
    let stopped = bench("sleep 600", |_| {});
    stopped.answers.folder.stops.store(true, Ordering::Relaxed);
    let error = stopped.get("x").await.unwrap_err();
    assert!(matches!(error, AnswerError::Stopped), "{error}");
}

#[test]
fn folders_of_processes_that_are_gone_are_removed_and_those_in_use_stay() {
    let state = tempfile::tempdir().unwrap();
    let old = state.path().join(FOLDER).join("0123");
    fs::create_dir_all(old.join("1")).unwrap();
    let first = Folder::new(state.path()).unwrap();
    assert!(!old.exists());
    let second = Folder::new(state.path()).unwrap();
    assert!(first.path.exists() && second.path.exists());
    let path = first.path.clone();
    drop(first);
    assert!(!path.exists());
}
