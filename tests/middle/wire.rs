//! UDP sockets of the man in the middle: packets of a connection come to them, or through them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

use crate::plan::{Plan, Side};

/// A socket of the man in the middle that only listens.
pub async fn listen(plan: &Arc<Plan>) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let plan = Arc::downgrade(plan);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(size) = socket.recv(&mut buffer).await {
            let Some(plan) = plan.upgrade() else { return };
            plan.tap.hear(&buffer[..size]);
        }
    });
    port
}

/// Two sockets through which all packets of a connection pass.
pub struct Wire {
    ports: [u16; 2],
    real: Arc<Mutex<[Option<SocketAddr>; 2]>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Wire {
    pub async fn lay(plan: Arc<Plan>) -> Self {
        let real: Arc<Mutex<[Option<SocketAddr>; 2]>> = Arc::default();
        let mut sockets = Vec::new();
        for _ in 0..2 {
            sockets.push(Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()));
        }
        let ports = [0, 1].map(|n: usize| sockets[n].local_addr().unwrap().port());
        let task = |n: usize| {
            // What comes to the one that stands for side n goes to side n, from the other one.
            let (at, by) = (Arc::clone(&sockets[n]), Arc::clone(&sockets[1 - n]));
            let (real, plan) = (Arc::clone(&real), Arc::clone(&plan));
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(size) = at.recv(&mut buffer).await {
                    plan.tap.hear(&buffer[..size]);
                    let to = real.lock().unwrap()[n];
                    if let Some(to) = to {
                        let _ = by.send_to(&buffer[..size], to).await;
                    }
                }
            })
        };
        let tasks = vec![task(0), task(1)];
        Self { ports, real, tasks }
    }

    /// The port that takes the place of that of a side.
    pub fn stand_for(&self, side: Side, real: SocketAddr) -> u16 {
        self.real.lock().unwrap()[side as usize] = Some(real);
        self.ports[side as usize]
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}
