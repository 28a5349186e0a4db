//! The local API: programs of this user.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::api::Request;
use super::super::service::Mode;
use super::super::swarm_tests::Running;
use super::on_this_thread;

#[test]
fn local_programs_that_say_nothing_give_their_places_back() {
    let folder = tempfile::tempdir().unwrap();
    let _node = Running::start(folder.path(), Mode::Run, &[]);
    on_this_thread(async {
        let at = folder.path().join("state/control.sock");
        let silent: Vec<_> = (0..64)
            .map(|_| {
                let silent = std::os::unix::net::UnixStream::connect(&at).unwrap();
                silent.set_nonblocking(true).unwrap();
                silent
            })
            .collect();
        let closed = |mut silent: &std::os::unix::net::UnixStream| {
            matches!(std::io::Read::read(&mut silent, &mut [0]), Ok(0))
        };
        // The next one waits for a place, for ten seconds: one of the others loses its own before.
        let mut next = UnixStream::connect(&at).await.unwrap();
        let request = serde_json::to_string(&Request::Transfers).unwrap() + "\n";
        next.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(next.read(&mut [0]).await.unwrap(), 1);
        assert!(silent.iter().any(closed), "it did not have to wait");
    });
}

#[test]
fn a_request_of_a_local_program_has_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let _node = Running::start(folder.path(), Mode::Run, &[]);
    on_this_thread(async {
        let at = folder.path().join("state/control.sock");
        let mut endless = UnixStream::connect(&at).await.unwrap();
        let (mut read, mut write) = endless.split();
        let block = vec![b' '; 1 << 20];
        let writing = async {
            let mut written = 0;
            while write.write_all(&block).await.is_ok() {
                written += block.len();
            }
            written
        };
        // What does not fit is not read: the connection closes under it.
        let mut answer = Vec::new();
        let (written, _) = tokio::join!(writing, read.read_to_end(&mut answer));
        assert!(written < 16 << 20, "{written}");
    });
}
