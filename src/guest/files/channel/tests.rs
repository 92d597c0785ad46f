use super::attributes::tests::leased;
use super::*;

const CALLER: Caller = Caller { uid: 0, gid: 0 };

struct Home {
    channel: Arc<FileChannel>,
    requests: mpsc::Receiver<Bytes>,
    replies: mpsc::Sender<Bytes>,
}

impl Home {
    fn new(queue: usize, silence_limit_ms: u64) -> Self {
        let (outgoing, requests) = mpsc::channel(queue);
        let (replies, incoming) = mpsc::channel(queue);
        let silence_limit = Duration::from_millis(silence_limit_ms);
        Self { channel: FileChannel::with_silence_limit(outgoing, incoming, silence_limit), requests, replies }
    }

    fn ask(&self, node: u64) -> tokio::task::JoinHandle<Result<Reply, ChannelError>> {
        let channel = self.channel.clone();
        tokio::spawn(async move { channel.ask(CALLER, Op::Readlink { node }).await })
    }

    async fn request(&mut self) -> Request {
        Request::decode(self.requests.recv().await.unwrap()).unwrap()
    }

    async fn reply(&self, id: u64, reply: Reply) {
        self.replies.send(reply.encode(id, &[])).await.unwrap();
    }
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let mut home = Home::new(4, 30_000);
    let (one, two) = (home.ask(1), home.ask(2));
    let (first, second) = (home.request().await, home.request().await);
    for request in [second, first] {
        let Op::Readlink { node } = request.op else { panic!("{request:?}") };
        home.reply(request.id, Reply::Opened { handle: node, stable: false, backing: None, contents: None }).await;
    }
    assert_eq!(one.await.unwrap(), Ok(Reply::Opened { handle: 1, stable: false, backing: None, contents: None }));
    assert_eq!(two.await.unwrap(), Ok(Reply::Opened { handle: 2, stable: false, backing: None, contents: None }));
}

#[tokio::test]
async fn stable_flag_depends_on_the_caller() {
    let mut home = Home::new(4, 30_000);
    let attr = Attr { stable: true, ..leased(0) };
    let op = Op::Getattr { node: 1 };
    let asked = tokio::spawn({
        let (channel, op) = (home.channel.clone(), op.clone());
        async move { channel.ask(CALLER, op).await }
    });
    let request = home.request().await;
    home.reply(request.id, Reply::Attr { attr }).await;
    let unstable = Reply::Attr { attr: Attr { stable: false, ..attr } };
    assert_eq!(asked.await.unwrap(), Ok(unstable.clone()));
    assert_eq!(home.channel.lookup(CALLER, &op), Some(unstable));
    assert_eq!(home.channel.lookup(Caller { uid: 1000, gid: 100 }, &op), Some(Reply::Attr { attr }));
}

#[tokio::test]
async fn silence_cuts_and_pulses_do_not() {
    let mut home = Home::new(4, 300);
    let asked = home.ask(1);
    let request = home.request().await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        home.reply(0, Reply::Pulse {}).await;
    }
    home.reply(request.id, Reply::Done {}).await;
    assert_eq!(asked.await.unwrap(), Ok(Reply::Done {}));
    // Silence is none while nothing is asked.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(matches!(home.ask(2).await.unwrap(), Err(ChannelError::Cut { .. })));
    assert_eq!(home.request().await.id, 2);
    assert!(matches!(home.ask(3).await.unwrap(), Err(ChannelError::Cut { .. })));
}

#[tokio::test]
async fn a_lost_link_and_a_bad_frame_cut() {
    let home = Home::new(4, 30_000);
    let asked = home.ask(1);
    drop(home.replies);
    assert!(matches!(asked.await.unwrap(), Err(ChannelError::Cut { .. })));

    let mut home = Home::new(4, 30_000);
    let asked = home.ask(1);
    home.request().await;
    home.replies.send(Bytes::from_static(b"?")).await.unwrap();
    assert!(matches!(asked.await.unwrap(), Err(ChannelError::Cut { .. })));
}

#[tokio::test]
async fn a_full_queue_does_not_outlive_the_cut() {
    let home = Home::new(1, 30_000);
    let asked: Vec<_> = (0..5).map(|node| home.ask(node)).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    home.channel.cut("test");
    for asked in asked {
        assert!(asked.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn no_more_than_the_limit_is_under_way() {
    let mut home = Home::new(2 * MAX_IN_FLIGHT, 30_000);
    let asked: Vec<_> = (0..MAX_IN_FLIGHT as u64 + 1).map(|node| home.ask(node)).collect();
    let mut ids = Vec::new();
    for _ in 0..MAX_IN_FLIGHT {
        ids.push(home.request().await.id);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(home.requests.try_recv().is_err());
    home.reply(ids[0], Reply::Done {}).await;
    ids.push(home.request().await.id);
    for id in &ids[1..] {
        home.reply(*id, Reply::Done {}).await;
    }
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn settle_waits_for_what_came_before() {
    let mut home = Home::new(4, 30_000);
    let asked = home.ask(1);
    let request = home.request().await;
    let settle = |limit_ms| {
        let channel = home.channel.clone();
        tokio::task::spawn_blocking(move || channel.settle(Duration::from_millis(limit_ms)))
    };
    assert_eq!(settle(50).await.unwrap(), Err(ChannelError::StillBusy { waiting: 1, limit_ms: 50 }));
    home.channel.close_soon(5);
    let stable = settle(10_000);
    let closes = home.request().await;
    assert_eq!(closes.op, Op::Release { handles: vec![5] });
    for id in [request.id, closes.id] {
        home.reply(id, Reply::Done {}).await;
    }
    assert_eq!(stable.await.unwrap(), Ok(()));
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn files_are_closed_together_and_soon() {
    let mut home = Home::new(4, 30_000);
    for handle in [1, 2] {
        home.channel.close_soon(handle);
    }
    let asked = home.ask(7);
    assert_eq!(home.request().await.op, Op::Readlink { node: 7 });
    assert_eq!(home.request().await.op, Op::Release { handles: vec![1, 2] });
    drop(asked);
    let many = 0..MAX_CLOSING as u64 + 1;
    let (channel, all) = (home.channel.clone(), many.clone());
    let closed = tokio::task::spawn_blocking(move || all.for_each(|handle| channel.close_soon(handle)));
    let mut handles = Vec::new();
    while handles.len() < many.clone().count() {
        let Op::Release { handles: some } = home.request().await.op else { panic!("another request") };
        assert!(some.len() <= MAX_CLOSING);
        handles.extend(some);
    }
    closed.await.unwrap();
    assert!(handles.into_iter().eq(many));
}

#[test]
fn root_gets_no_attribute_ttl() {
    let (user, root) = (Caller { uid: 1000, gid: 100 }, Caller { uid: 0, gid: 0 });
    let missing = |stable, leased| Reply::Missing { stable, leased };
    assert_eq!(told_to(root, missing(true, false)), Reply::Error { errno: libc::ENOENT });
    assert_eq!(told_to(root, missing(true, true)), missing(false, true));
    let opened = |stable| Reply::Opened { handle: 1, stable, backing: None, contents: None };
    assert_eq!(told_to(root, opened(true)), opened(false));
    assert_eq!(told_to(root, Reply::Done {}), Reply::Done {});
    for reply in [missing(true, false), opened(true)] {
        assert_eq!(told_to(user, reply.clone()), reply);
    }
}
