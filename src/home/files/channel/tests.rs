use super::*;

const CALLER: Caller = Caller { uid: 0, gid: 0 };

async fn next(frames: &mut mpsc::Receiver<Bytes>) -> Request {
    Request::decode(frames.recv().await.unwrap()).unwrap()
}

fn ask(channel: &Arc<FileChannel>, node: u64) -> tokio::task::JoinHandle<Result<Reply, ChannelError>> {
    let channel = channel.clone();
    tokio::spawn(async move { channel.ask(CALLER, Op::Readlink { node }).await })
}

#[tokio::test]
async fn what_waits_is_sent_again_over_the_next_link() {
    let channel = FileChannel::new();
    let (outgoing, mut frames) = mpsc::channel(1);
    let (_replies, incoming) = mpsc::channel(1);
    channel.attach(outgoing, incoming).unwrap();
    let asked = ask(&channel, 7);
    let first = next(&mut frames).await;
    drop((frames, _replies));

    let (outgoing, mut frames) = mpsc::channel(1);
    let (replies, incoming) = mpsc::channel(1);
    channel.attach(outgoing, incoming).unwrap();
    assert_eq!(next(&mut frames).await, first);
    replies.send(Reply::Done {}.encode(first.id)).await.unwrap();
    replies.send(Reply::Done {}.encode(first.id)).await.unwrap();
    assert_eq!(asked.await.unwrap(), Ok(Reply::Done {}));
}

#[tokio::test]
async fn a_request_names_the_oldest_that_waits() {
    let channel = FileChannel::new();
    let (outgoing, mut frames) = mpsc::channel(4);
    let (replies, incoming) = mpsc::channel(4);
    channel.attach(outgoing, incoming).unwrap();
    let (_first, second) = (ask(&channel, 1), ask(&channel, 2));
    let (one, two) = (next(&mut frames).await, next(&mut frames).await);
    assert_eq!((one.settled, two.settled), (one.id, one.id));
    for id in [one.id, two.id] {
        replies.send(Reply::Done {}.encode(id)).await.unwrap();
    }
    second.await.unwrap().unwrap();
    _first.await.unwrap().unwrap();
    let _third = ask(&channel, 3);
    let three = next(&mut frames).await;
    assert_eq!(three.settled, three.id);
}

#[tokio::test]
async fn silence_cuts_and_pulses_do_not() {
    let channel = FileChannel::with_silence_limit(Duration::from_millis(300));
    let (outgoing, mut frames) = mpsc::channel(4);
    let (replies, incoming) = mpsc::channel(4);
    channel.attach(outgoing, incoming).unwrap();
    let asked = ask(&channel, 1);
    let request = next(&mut frames).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        replies.send(Reply::Pulse {}.encode(0)).await.unwrap();
    }
    replies.send(Reply::Done {}.encode(request.id)).await.unwrap();
    assert_eq!(asked.await.unwrap(), Ok(Reply::Done {}));
    // Idle silence is none.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let asked = ask(&channel, 2);
    assert!(matches!(asked.await.unwrap(), Err(ChannelError::Cut { .. })));
    assert!(matches!(ask(&channel, 3).await.unwrap(), Err(ChannelError::Cut { .. })));
}

#[tokio::test]
async fn a_full_queue_does_not_outlive_the_cut() {
    let channel = FileChannel::new();
    let (outgoing, _frames) = mpsc::channel(1);
    let (_replies, incoming) = mpsc::channel(1);
    channel.attach(outgoing, incoming).unwrap();
    let asked: Vec<_> = (0..5).map(|node| ask(&channel, node)).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    channel.cut("test");
    for asked in asked {
        assert!(asked.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn settle_waits_for_what_came_before() {
    let channel = FileChannel::new();
    let (outgoing, mut frames) = mpsc::channel(4);
    let (replies, incoming) = mpsc::channel(4);
    channel.attach(outgoing, incoming).unwrap();
    let asked = ask(&channel, 1);
    let request = next(&mut frames).await;
    let settle = |limit_ms| {
        let channel = channel.clone();
        tokio::task::spawn_blocking(move || channel.settle(Duration::from_millis(limit_ms)))
    };
    assert_eq!(settle(50).await.unwrap(), Err(ChannelError::StillBusy { waiting: 1, limit_ms: 50 }));
    let settled = settle(10_000);
    replies.send(Reply::Done {}.encode(request.id)).await.unwrap();
    assert_eq!(settled.await.unwrap(), Ok(()));
    asked.await.unwrap().unwrap();
}
