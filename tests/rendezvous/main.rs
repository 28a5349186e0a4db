//! The rendezvous as the real program: sessions over HTTP, devices and relayed links over
//! WebSocket, on SQLite and on PostgreSQL, alone and with a second server.

mod devices;
mod limits;
mod postgres;
mod providing;
mod relays;
mod server;
mod sessions;
mod several;
mod sockets;
mod tls;
mod tokens;
