//! The tokio runtime as `webrtc` sees it, with larger socket buffers and shorter read bursts.
//!
//! Both changes are worth a factor of ten (docs/ARCHITECTURE.md, "Speed"): a burst of segmented
//! datagrams overflows the stock UDP buffer, and every datagram lost that way costs an SCTP
//! retransmission timeout of a second; and the driver reads up to 64 times before it answers, so
//! that both ends run in lockstep unless a read burst ends earlier.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime,
    TokioRuntime, Transmit,
};

/// Reads in a row before the driver gets to send.
const READ_BURST: u32 = 8;

/// Tokio, with our sockets.
#[derive(Debug)]
pub struct LinkRuntime {
    /// Bytes for SO_RCVBUF and SO_SNDBUF each; the kernel may grant less.
    pub udp_buffer: usize,
}

impl Runtime for LinkRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let options = socket2::SockRef::from(&socket);
        options.set_recv_buffer_size(self.udp_buffer)?;
        options.set_send_buffer_size(self.udp_buffer)?;
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(BurstSocket {
            inner,
            reads: AtomicU32::new(0),
        }))
    }

    fn wrap_tcp_listener(
        &self,
        listener: std::net::TcpListener,
    ) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        remote: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        TokioRuntime.connect_tcp(remote)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        // Names have been looked up before (net::ice): here it would hold up the link's packets.
        let found = super::ice::literal(host).ok_or_else(|| {
            let text = "only addresses are looked up here";
            io::Error::new(io::ErrorKind::InvalidInput, text)
        });
        Box::pin(std::future::ready(found.map(|at| vec![at])))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        TokioRuntime.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        TokioRuntime.yield_now()
    }

    fn name(&self) -> &'static str {
        "handout"
    }
}

/// A UDP socket that lets at most [`READ_BURST`] reads succeed in a row.
#[derive(Debug)]
struct BurstSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    reads: AtomicU32,
}

impl AsyncUdpSocket for BurstSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.inner.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.reads.fetch_add(1, Ordering::Relaxed) >= READ_BURST {
            self.reads.store(0, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if polled.is_pending() {
            self.reads.store(0, Ordering::Relaxed);
        }
        polled
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}
