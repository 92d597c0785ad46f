//! The private network of a cluster: an Ethernet switch in a process of its own.
//!
//! ```text
//!   QEMU n1 ──┐ n1.lan                          frame from port a for port b:
//!   QEMU n2 ──┤        switch ◄── control       cut? drop
//!   QEMU n3 ──┘        (one thread)             rate? wait in the pair's queue, drop if that is longer than QUEUE
//!                                               send; drop if b's queue is full
//! ```
//!
//! Each node's QEMU connects to its own Unix socket and speaks QEMU's stream format: a frame is
//! preceded by its length, four bytes, big endian. The switch learns which address lies behind
//! which port, as any switch does, and what it knows of pairs (cut, rate) outlives the nodes'
//! comings and goings. It needs no privileges of the host.
//!
//! The process is also the cluster's guardian: if the `vm up` that started it ends before it has
//! said that all is well, the switch takes the half-made cluster down.

use super::control::{self, Reply, Request};
use super::shaper::{QUEUE, Shaper};
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// QEMU's largest frame: 64 KiB and the room that it leaves for headers.
const LONGEST_FRAME_BYTES: usize = 68 * 1024;

/// Frames that may wait for a node to read them (about 12 MB of full ones: more than one TCP
/// window).
const PORT_QUEUE_FRAMES: usize = 8192;

/// Frames that may wait in a pair's queue, whatever their size.
const LINK_QUEUE_FRAMES: usize = 4096;

type Frame = Rc<[u8]>;
type Mac = [u8; 6];

/// Where the node's QEMU connects to.
pub fn port_socket(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("n{node}.lan"))
}

/// Where the switch takes orders.
pub fn control_socket(dir: &Path) -> PathBuf {
    dir.join("switch.ctl")
}

/// One direction between two nodes.
#[derive(Default)]
struct Link {
    cut: bool,
    shaped: Option<(Shaper, mpsc::Sender<(Instant, Frame)>)>,
}

#[derive(Default)]
struct Fabric {
    ports: HashMap<usize, mpsc::Sender<Frame>>,
    macs: HashMap<Mac, usize>,
    links: HashMap<(usize, usize), Link>,
}

type Shared = Rc<RefCell<Fabric>>;

/// Serves the network of `nodes` nodes until killed. `dir` is the cluster's run directory;
/// `abandoned` is called if stdin ends without a line, that is if the `vm up` that started us died.
pub fn serve(dir: &Path, nodes: usize, abandoned: impl FnOnce()) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let fabric = Shared::default();
        for node in 1..=nodes {
            let path = port_socket(dir, node);
            let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
            tokio::task::spawn_local(serve_port(fabric.clone(), node, listener));
        }
        let control = control::listen(&control_socket(dir), rustix::process::getuid().as_raw())?;
        control.set_nonblocking(true)?;
        let control = UnixListener::from_std(control)?;
        tokio::task::spawn_local(serve_control(fabric, nodes, control));

        let mut word = String::new();
        let said = BufReader::new(tokio::io::stdin()).read_line(&mut word).await;
        if matches!(said, Ok(0) | Err(_)) {
            abandoned();
            return Ok(());
        }
        std::future::pending().await
    })
}

async fn serve_port(fabric: Shared, node: usize, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let (reader, writer) = stream.into_split();
        let (sender, receiver) = mpsc::channel(PORT_QUEUE_FRAMES);
        fabric.borrow_mut().ports.insert(node, sender);
        let writing = tokio::task::spawn_local(write_frames(writer, receiver));
        if let Err(error) = read_frames(&fabric, node, reader).await {
            eprintln!("switch: n{node}: {error:#}");
        }
        fabric.borrow_mut().ports.remove(&node);
        writing.abort();
    }
}

async fn read_frames(fabric: &Shared, node: usize, mut reader: OwnedReadHalf) -> Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(4 * LONGEST_FRAME_BYTES);
    loop {
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..];
        while let Some((frame, after)) = split_frame(rest)? {
            forward(fabric, node, frame);
            rest = after;
        }
        let consumed = buffer.len() - rest.len();
        buffer.drain(..consumed);
    }
}

/// The first frame of `bytes` and what follows it, or `None` if it is not all there yet.
fn split_frame(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let Some((header, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > LONGEST_FRAME_BYTES {
        anyhow::bail!("a frame of {length} bytes: not QEMU's stream format");
    }
    Ok(rest.split_at_checked(length))
}

async fn write_frames(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<Frame>) {
    let mut batch = Vec::new();
    let mut bytes = Vec::new();
    while frames.recv_many(&mut batch, 64).await > 0 {
        bytes.clear();
        for frame in batch.drain(..) {
            bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&frame);
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Sends a frame that came from node `from` to where it belongs.
fn forward(fabric: &Shared, from: usize, frame: &[u8]) {
    let Some((destination, source)) = addresses(frame) else { return };
    let mut fabric = fabric.borrow_mut();
    fabric.macs.insert(source, from);
    let known = (destination[0] & 1 == 0).then(|| fabric.macs.get(&destination).copied()).flatten();
    let frame: Frame = frame.into();
    let targets: Vec<usize> = match known {
        Some(port) if port == from => return,
        Some(port) => vec![port],
        None => fabric.ports.keys().copied().filter(|&port| port != from).collect(),
    };
    let now = Instant::now();
    for to in targets {
        match fabric.links.get_mut(&(from, to)) {
            Some(link) if link.cut => {}
            Some(Link { shaped: Some((shaper, queue)), .. }) => {
                if let Some(at) = shaper.admit(now, frame.len()) {
                    // A full queue drops, as a real one does.
                    let _ = queue.try_send((at, frame.clone()));
                }
            }
            _ => fabric.deliver(to, frame.clone()),
        }
    }
}

fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    let (destination, rest) = frame.split_first_chunk::<6>()?;
    let (source, _) = rest.split_first_chunk::<6>()?;
    Some((*destination, *source))
}

impl Fabric {
    fn deliver(&self, to: usize, frame: Frame) {
        if let Some(port) = self.ports.get(&to) {
            let _ = port.try_send(frame);
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }
}

/// Gives the frames of one limited direction out at the times that its shaper fixed; these never
/// run backwards, so frames keep their order.
async fn delay(fabric: Shared, to: usize, mut frames: mpsc::Receiver<(Instant, Frame)>) {
    while let Some((at, frame)) = frames.recv().await {
        tokio::time::sleep_until(at.into()).await;
        fabric.borrow().deliver(to, frame);
    }
}

async fn serve_control(fabric: Shared, nodes: usize, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        if let Err(error) = answer(&fabric, nodes, stream).await {
            eprintln!("switch: control: {error:#}");
        }
    }
}

async fn answer(fabric: &Shared, nodes: usize, stream: UnixStream) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    // An order is one short line; a client that sends none must not stop the others.
    let read = BufReader::new(reader.take(4096)).read_line(&mut line).await;
    read.context("cannot read an order")?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => obey(fabric, nodes, request),
        Err(error) => Reply::Refused(format!("not an order: {error}")),
    };
    writer.write_all(format!("{}\n", serde_json::to_string(&reply)?).as_bytes()).await?;
    Ok(())
}

fn obey(fabric: &Shared, nodes: usize, request: Request) -> Reply {
    let (a, b) = request.pair();
    if a == b || [a, b].iter().any(|&node| node == 0 || node > nodes) {
        return Reply::Refused(format!("no pair n{a}, n{b} in a cluster of {nodes} nodes"));
    }
    for (from, to) in [(a, b), (b, a)] {
        match request {
            Request::Cut { .. } => fabric.borrow_mut().link(from, to).cut = true,
            Request::Heal { .. } => fabric.borrow_mut().link(from, to).cut = false,
            Request::Rate { mbit: 0, .. } => fabric.borrow_mut().link(from, to).shaped = None,
            Request::Rate { mbit, .. } => {
                let (sender, receiver) = mpsc::channel(LINK_QUEUE_FRAMES);
                tokio::task::spawn_local(delay(fabric.clone(), to, receiver));
                let shaper = Shaper::new(u64::from(mbit) * 1_000_000 / 8, QUEUE);
                fabric.borrow_mut().link(from, to).shaped = Some((shaper, sender));
            }
        }
    }
    Reply::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const EVERYONE: Mac = [0xff; 6];

    fn frame(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
        [&to[..], &from[..], payload].concat()
    }

    struct Node(UnixStream);

    impl Node {
        async fn send(&mut self, frame: &[u8]) {
            self.0.write_all(&(frame.len() as u32).to_be_bytes()).await.unwrap();
            self.0.write_all(frame).await.unwrap();
        }

        /// The next frame, or `None` if none comes within 200 ms.
        async fn receive(&mut self) -> Option<Vec<u8>> {
            let receiving = async {
                let length = self.0.read_u32().await.unwrap();
                let mut frame = vec![0; length as usize];
                self.0.read_exact(&mut frame).await.unwrap();
                frame
            };
            tokio::time::timeout(Duration::from_millis(200), receiving).await.ok()
        }
    }

    fn with_nodes<F: Future<Output = ()>>(test: impl FnOnce(Shared, Vec<Node>) -> F) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let fabric = Shared::default();
            let mut nodes = Vec::new();
            for node in 1..=3 {
                let path = port_socket(directory.path(), node);
                tokio::task::spawn_local(serve_port(fabric.clone(), node, UnixListener::bind(&path).unwrap()));
                nodes.push(Node(UnixStream::connect(&path).await.unwrap()));
            }
            while fabric.borrow().ports.len() < 3 {
                tokio::task::yield_now().await;
            }
            test(fabric, nodes).await;
        });
    }

    #[test]
    fn a_broadcast_reaches_all_and_an_answer_only_the_asker() {
        with_nodes(|_, mut nodes| async move {
            let question = frame(EVERYONE, A, b"who?");
            nodes[0].send(&question).await;
            assert_eq!(nodes[1].receive().await.as_ref(), Some(&question));
            assert_eq!(nodes[2].receive().await.as_ref(), Some(&question));
            let answer = frame(A, B, b"me");
            nodes[1].send(&answer).await;
            assert_eq!(nodes[0].receive().await.as_ref(), Some(&answer));
            assert_eq!(nodes[2].receive().await, None);
            assert_eq!(nodes[0].receive().await, None);
        });
    }

    #[test]
    fn a_cut_pair_is_cut_both_ways_until_healed_and_others_are_not() {
        with_nodes(|fabric, mut nodes| async move {
            assert!(matches!(obey(&fabric, 3, Request::Cut { a: 1, b: 2 }), Reply::Done));
            let hello = frame(EVERYONE, A, b"hello");
            nodes[0].send(&hello).await;
            assert_eq!(nodes[2].receive().await.as_ref(), Some(&hello));
            assert_eq!(nodes[1].receive().await, None);
            nodes[1].send(&frame(EVERYONE, B, b"hello")).await;
            assert_eq!(nodes[0].receive().await, None);
            assert!(nodes[2].receive().await.is_some());
            assert!(matches!(obey(&fabric, 3, Request::Heal { a: 2, b: 1 }), Reply::Done));
            nodes[0].send(&hello).await;
            assert_eq!(nodes[1].receive().await, Some(hello));
        });
    }

    #[test]
    fn a_limited_pair_keeps_to_its_rate_and_order() {
        with_nodes(|fabric, mut nodes| async move {
            assert!(matches!(obey(&fabric, 3, Request::Rate { a: 1, b: 2, mbit: 1 }), Reply::Done));
            let since = Instant::now();
            for number in 0..10u8 {
                nodes[0].send(&frame(EVERYONE, A, &[number; 1238])).await;
            }
            for number in 0..10u8 {
                assert_eq!(nodes[1].receive().await.unwrap()[12], number);
            }
            // 10 frames of 1250 bytes at 1 Mbit/s.
            assert!(since.elapsed() >= Duration::from_millis(100), "{:?}", since.elapsed());
        });
    }

    #[test]
    fn an_order_for_a_node_that_is_not_there_is_refused() {
        let fabric = Shared::default();
        assert!(matches!(obey(&fabric, 3, Request::Cut { a: 1, b: 4 }), Reply::Refused(_)));
        assert!(matches!(obey(&fabric, 3, Request::Cut { a: 0, b: 1 }), Reply::Refused(_)));
        assert!(matches!(obey(&fabric, 3, Request::Heal { a: 2, b: 2 }), Reply::Refused(_)));
    }

    #[test]
    fn what_is_not_a_frame_is_an_error_and_half_a_frame_waits() {
        assert!(split_frame(&[0xff; 8]).is_err());
        assert!(split_frame(&[0, 0]).unwrap().is_none());
        assert!(split_frame(&[0, 0, 0, 2, 7]).unwrap().is_none());
        assert_eq!(split_frame(&[0, 0, 0, 1, 7, 9]).unwrap(), Some((&[7][..], &[9][..])));
    }
}
