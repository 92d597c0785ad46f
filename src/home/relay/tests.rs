//! Both sides of the relays, over a real link in memory, with real pipes and terminals at both
//! ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::*;
use crate::guest::relay::{GuestRelays, make};
use crate::link::relay::terminal::{ECHO, EXTPROC, ICANON, get_termios, get_winsize, set_termios, set_winsize};
use crate::link::relay::{has_no_reader, unread_bytes};
use crate::link::{Event, link};
use crate::protocol::{
    deputy::Command,
    home::{Channel, ChannelKind, GuestToHome, HomeToGuest, Termios, Winsize},
};

/// One channel, relayed from home to a guest; `tree` is the guest's end of it.
struct World {
    home: std::sync::Arc<HomeRelays>,
    guest: std::sync::Arc<GuestRelays>,
    tree: File,
    deputy: mpsc::Receiver<Command>,
    _tasks: JoinSet<()>,
}

impl World {
    async fn new(kind: ChannelKind, descriptor: OwnedFd) -> Self {
        let channel = Channel { id: 3, kind };
        let (commands, deputy) = mpsc::channel(8);
        let taken = TakenChannel { channel, criu_key: String::new(), descriptor };
        let home = std::sync::Arc::new(HomeRelays::start(vec![taken], commands).unwrap());
        let mut tasks = JoinSet::new();
        let (guest, tree) = Self::guest(&home, channel, &mut tasks).await;
        Self { home, guest, tree, deputy, _tasks: tasks }
    }

    async fn guest(
        home: &std::sync::Arc<HomeRelays>,
        channel: Channel,
        tasks: &mut JoinSet<()>,
    ) -> (std::sync::Arc<GuestRelays>, File) {
        let (guest_link, mut guest_carrier) = link::<GuestToHome, HomeToGuest>();
        let (home_link, mut home_carrier) = link::<HomeToGuest, GuestToHome>();
        let (a, b) = tokio::io::duplex(1 << 16);
        tasks.spawn(async move { drop(guest_carrier.carry(a, 0).await) });
        tasks.spawn(async move { drop(home_carrier.carry(b, 0).await) });
        let (made, tree) = make(channel).unwrap();
        let guest = std::sync::Arc::new(GuestRelays::start(vec![made], &guest_link.sender.stdio()).unwrap());
        guest.arm().await;
        home.attach(&home_link.sender.stdio()).await;
        let (mut events, to) = (home_link.events, home.clone());
        tasks.spawn(async move {
            let _keep = home_link.sender;
            while let Some(Event::Stdio(stdio)) = events.recv().await {
                to.deliver(stdio).unwrap();
            }
        });
        let (mut events, to) = (guest_link.events, guest.clone());
        tasks.spawn(async move {
            let _keep = guest_link.sender;
            while let Some(Event::Stdio(stdio)) = events.recv().await {
                to.deliver(stdio).unwrap();
            }
        });
        (guest, File::from(tree))
    }
}

async fn read_exact(file: &File, bytes: usize) -> Vec<u8> {
    let mut file = file.try_clone().unwrap();
    let read = spawn_blocking(move || {
        let mut buffer = vec![0; bytes];
        file.read_exact(&mut buffer).unwrap();
        buffer
    });
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("nothing comes").unwrap()
}

async fn read_to_end(mut file: File) -> Vec<u8> {
    let read = spawn_blocking(move || {
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        all
    });
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("no end of file").unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(read)), write.into())
}

#[tokio::test]
async fn output_arrives_whole_and_ends_with_the_tree() {
    let (reader, writer) = pipe();
    let world = World::new(ChannelKind::PipeOut, writer).await;
    let text: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).take(3_000_000).collect();
    let (mut tree, sent) = (world.tree, text.clone());
    let written = spawn_blocking(move || tree.write_all(&sent).unwrap());
    assert!(read_to_end(reader).await == text);
    written.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_at_home_blocks_the_tree() {
    let (reader, writer) = pipe();
    let world = World::new(ChannelKind::PipeOut, writer).await;
    let tree = world.tree;
    rustix::io::ioctl_fionbio(&tree, true).unwrap();
    let (mut written, mut quiet_since) = (0, Instant::now());
    while quiet_since.elapsed() < Duration::from_millis(300) {
        match (&tree).write(&[b'x'; 4096]) {
            Ok(bytes) => (written, quiet_since) = (written + bytes, Instant::now()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    assert!(written <= 2 * CHUNK_BYTES + crate::protocol::home::WINDOW as usize + CHUNK_BYTES, "{written}");
    drop(tree);
    assert_eq!(read_to_end(reader).await.len(), written);
}

#[tokio::test]
async fn a_reader_that_goes_away_breaks_the_guests_pipe() {
    let (reader, writer) = pipe();
    let mut world = World::new(ChannelKind::PipeOut, writer).await;
    world.tree.write_all(b"first").unwrap();
    assert_eq!(read_exact(&reader, 5).await, b"first");
    drop(reader);
    until("the process tree may still write", || has_no_reader(&OwnedFd::from(world.tree.try_clone().unwrap()))).await;
}

#[tokio::test]
async fn input_is_taken_from_home_only_as_the_guest_reads() {
    let (home_end, mut writer) = pipe();
    let world = World::new(ChannelKind::PipeIn, home_end.try_clone().unwrap().into()).await;
    File::from(writer.try_clone().unwrap()).write_all(b"first\nsecond\nthird\n").unwrap();
    assert_eq!(read_exact(&world.tree, 6).await, b"first\n");
    until("home still holds what was read", || unread_bytes(&home_end).unwrap() == 13).await;
    assert_eq!(read_exact(&world.tree, 3).await, b"sec");
    drop(world.tree);
    world.guest.drain().await;
    until("home does not learn that the process tree is gone", || unread_bytes(&home_end).unwrap() == 10).await;
    writer = home_end.into();
    let mut rest = vec![0; 10];
    rustix::io::read(&writer, &mut rest).unwrap();
    assert_eq!(rest, b"ond\nthird\n");
}

#[tokio::test]
async fn input_is_whole_and_ends() {
    let (home_end, writer) = pipe();
    let world = World::new(ChannelKind::PipeIn, home_end.into()).await;
    let text: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).take(1_000_000).collect();
    let (mut writer, sent) = (File::from(writer), text.clone());
    spawn_blocking(move || writer.write_all(&sent).unwrap());
    assert!(read_to_end(world.tree).await == text);
}

#[tokio::test]
async fn a_next_guest_resumes_where_the_one_before_stopped() {
    let (home_end, writer) = pipe();
    let mut world = World::new(ChannelKind::PipeIn, home_end.into()).await;
    let mut writer = File::from(writer);
    writer.write_all(b"one two three").unwrap();
    assert_eq!(read_exact(&world.tree, 4).await, b"one ");
    world.guest.pause().await;
    let channel = Channel { id: 3, kind: ChannelKind::PipeIn };
    let mut tasks = JoinSet::new();
    // The pause has told home how far the process tree had read, before anything that the new guest
    // says.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_guest, tree) = World::guest(&world.home, channel, &mut tasks).await;
    world._tasks.shutdown().await;
    drop(writer);
    assert_eq!(read_to_end(tree).await, b"two three");
}

/// A terminal at home: its master, as its user sees it, and its slave.
fn terminal() -> (File, OwnedFd) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    (File::from(master), slave)
}

/// Reads for the process tree as its deputy would.
fn play_deputy(world: &mut World, slave: &OwnedFd) {
    let (home, slave) = (world.home.clone(), File::from(slave.try_clone().unwrap()));
    let (_, empty) = mpsc::channel(1);
    let mut commands = std::mem::replace(&mut world.deputy, empty);
    std::thread::spawn(move || {
        while let Some(Command::Read(bytes)) = commands.blocking_recv() {
            let mut line = vec![0; bytes.into()];
            let got = (&slave).read(&mut line).unwrap();
            line.truncate(got);
            home.told(Told::Input(line.into()));
        }
    });
}

#[tokio::test]
async fn the_terminal_shows_edits_and_echoes_as_at_home() {
    let (mut screen, slave) = terminal();
    set_winsize(&slave, &Winsize { rows: 33, cols: 99, xpixel: 0, ypixel: 0 }).unwrap();
    let mut world = World::new(ChannelKind::Tty, slave.try_clone().unwrap()).await;
    play_deputy(&mut world, &slave);
    until("the size does not arrive", || get_winsize(&world.tree).unwrap().cols == 99).await;
    world.tree.write_all(b"one\ntwo\n").unwrap();
    assert_eq!(read_exact(&screen, 10).await, b"one\r\ntwo\r\n");
    screen.write_all(b"abx\x7fc\n").unwrap();
    assert_eq!(read_exact(&world.tree, 4).await, b"abc\n");
    assert_eq!(read_exact(&screen, 9).await, b"abx\x08 \x08c\r\n");
}

#[tokio::test]
async fn terminal_settings_and_end_of_file_arrive_in_order() {
    let (mut screen, slave) = terminal();
    let mut world = World::new(ChannelKind::Tty, slave.try_clone().unwrap()).await;
    play_deputy(&mut world, &slave);
    screen.write_all(b"\x04").unwrap();
    let mut tree = world.tree.try_clone().unwrap();
    let end = spawn_blocking(move || tree.read(&mut [0; 10]).unwrap());
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), end).await.unwrap().unwrap(), 0);
    // As a program that restores settings it saved before it moved: EXTPROC is not in them.
    let raw = Termios { lflag: 0, ..get_termios(&slave).unwrap() };
    set_termios(&world.tree, &raw).unwrap();
    until("home's terminal is not raw", || get_termios(&slave).unwrap().lflag & (ICANON | ECHO) == 0).await;
    until("EXTPROC stays off", || get_termios(&world.tree).unwrap().lflag & EXTPROC != 0).await;
    screen.write_all(b"k").unwrap();
    assert_eq!(read_exact(&world.tree, 1).await, b"k");
    world.tree.write_all(b"at\rstart").unwrap();
    assert_eq!(read_exact(&screen, 8).await, b"at\rstart");
}

#[tokio::test]
async fn unread_input_is_given_back_in_order_without_an_echo() {
    let (mut screen, slave) = terminal();
    let mut world = World::new(ChannelKind::Tty, slave.try_clone().unwrap()).await;
    play_deputy(&mut world, &slave);
    screen.write_all(b"left behind\n").unwrap();
    assert_eq!(read_exact(&screen, 13).await, b"left behind\r\n");
    until("the line does not reach the guest", || unread_bytes(&world.tree).unwrap() == 12).await;
    screen.write_all(b"next\n").unwrap();
    assert_eq!(read_exact(&screen, 6).await, b"next\r\n");
    world.home.give_back().await;
    let slave = File::from(slave);
    assert_eq!(read_exact(&slave, 12).await, b"left behind\n");
    assert_eq!(read_exact(&slave, 5).await, b"next\n");
    rustix::io::ioctl_fionbio(&screen, true).unwrap();
    assert!(screen.read(&mut [0; 10]).is_err(), "echoed twice; descriptor {}", screen.as_raw_fd());
}
