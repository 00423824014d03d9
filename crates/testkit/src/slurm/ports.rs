//! Ports that no other cluster has.

use std::net::{Ipv4Addr, TcpListener};
use std::process;

/// Below those that the kernel gives to whoever asks for any.
const FIRST: u16 = 20_000;
const END: u16 = 32_000;
const BLOCK: u16 = 40;

/// A block of ports. Its first one is listened at for as long as the block is in use, which keeps
/// every other cluster of this machine away from the others.
#[derive(Debug)]
pub(super) struct Ports {
    lock: u16,
    _listener: TcpListener,
}

impl Ports {
    /// A block with so many ports that nobody listens at.
    pub(super) fn find(n_ports: usize) -> Self {
        assert!(n_ports < BLOCK.into(), "a cluster has {n_ports} ports");
        let n_blocks = (END - FIRST) / BLOCK;
        // Processes that start together begin to look at different places.
        let first = (process::id() % u32::from(n_blocks)) as u16;
        let blocks = (first..n_blocks).chain(0..first);
        let mut blocks = blocks.map(|block| FIRST + block * BLOCK);
        blocks
            .find_map(|lock| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, lock)).ok()?;
                let are_free = (1..=n_ports as u16)
                    .all(|n| TcpListener::bind((Ipv4Addr::UNSPECIFIED, lock + n)).is_ok());
                are_free.then_some(Self {
                    lock,
                    _listener: listener,
                })
            })
            .expect("find free ports for a cluster")
    }

    /// The n-th port, from 0.
    pub(super) fn nth(&self, n: usize) -> u16 {
        self.lock + 1 + n as u16
    }
}
