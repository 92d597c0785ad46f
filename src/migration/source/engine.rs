//! The course of one move as its source goes it.

use std::{
    future::Future,
    pin::pin,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Body, Descriptors, Move, Outcome, Owner, Place, Verdict,
    transfer::{Progress, send_body, send_end, send_failure},
};
use crate::{
    control::{MoveProgress, MoveState},
    migration::{
        criu::{DumpRequest, Dumper, Program},
        freeze::{Frozen, is_frozen},
        hold::hold,
        images::ImageDir,
        machine::Machine,
        movable,
        process::{Process, members},
        vdso::freeze_outside,
        wire::{Begin, Control, Frame, VERSION},
    },
};

/// How long dialling the target may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long CRIU may take for a dump; under emulation a second is usual.
const DUMP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the target may be silent after everything has been sent, or while nothing can be sent to it.
const TARGET_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait, once home has committed, for the target to say that the body runs; only the record needs it.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(5);

/// Moves a body. Returns when it is settled where it runs: at the target (the body here is frozen for good and is the
/// owner's to dispose of), or here (it has been thawed).
///
/// `connect` dials the target; it is awaited before anything is frozen. `cancel` makes the engine ask home for an abort.
pub async fn run<S, C>(plan: &Move, owner: &dyn Owner, connect: C, cancel: CancellationToken) -> Outcome
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C: Future<Output = Result<S, String>> + Send,
{
    let machine = Machine::starting_at(plan.migration, MoveState::Precopy, 0);
    let mut engine = Engine { plan, owner, clock: Instant::now(), machine, progress: Progress::default() };
    engine.report(MoveState::Precopy, None, None);
    let prepared = tokio::select! {
        prepared = engine.prepare(connect) => prepared,
        () = cancel.cancelled() => Err(CANCELLED.into()),
    };
    match prepared {
        Ok(ready) => engine.move_frozen(ready, &cancel).await,
        Err(reason) => engine.give_up(&reason).await,
    }
}

/// The reason of an abort that somebody asked for.
const CANCELLED: &str = "it was cancelled";
/// The reason of an abort because of a target that does not keep to the protocol.
const OUT_OF_TURN: &str = "the target answered out of turn";

/// All that is needed before the freeze.
struct Ready<S> {
    dumper: Dumper,
    images: ImageDir,
    target: Target,
    writer: WriteHalf<S>,
}

struct Engine<'a> {
    plan: &'a Move,
    owner: &'a dyn Owner,
    clock: Instant,
    machine: Machine,
    progress: Progress,
}

impl Engine<'_> {
    async fn prepare<S>(&self, connect: impl Future<Output = Result<S, String>> + Send) -> Result<Ready<S>, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        check(&self.plan.body).await?;
        let program = Program::find().map_err(explain)?;
        let images = ImageDir::create(&self.plan.run_dir, self.plan.migration).map_err(explain)?;
        let stream = timeout(DIAL_TIMEOUT, connect)
            .await
            .map_err(|_| format!("the target did not answer within {} s", DIAL_TIMEOUT.as_secs()))??;
        let (reader, writer) = split(stream);
        let body = &self.plan.body;
        let request = DumpRequest {
            enter: matches!(body.place, Place::Guest { .. }).then_some(body.root_pid),
            cgroup: body.cgroup.clone(),
            images: images.path().into(),
            limit: DUMP_TIMEOUT,
        };
        // For a guest its start looks names up in home's tree.
        let dumper = blocking(move || Dumper::start(&program, request)).await?;
        hold(&self.plan.run_dir, MoveState::Precopy).await;
        Ok(Ready { dumper, images, target: Target::listen(reader), writer })
    }

    /// Freeze to the end.
    async fn move_frozen<S>(&mut self, ready: Ready<S>, cancel: &CancellationToken) -> Outcome
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Ready { dumper, images, mut target, mut writer } = ready;
        self.enter(MoveState::Freeze);
        let frozen_at = Instant::now();
        let frozen = match freeze_outside(&self.plan.body.cgroup, || self.owner.freezing()).await {
            Ok(frozen) => frozen,
            Err(error) => {
                let reason = explain(error);
                send_failure(&mut writer, &reason).await;
                return self.give_up(&reason).await;
            }
        };
        let failure = match self.transfer(dumper, &images, &mut target, &mut writer, cancel).await {
            Ok(()) => {
                self.enter(MoveState::Restore);
                self.await_decision(&mut target, cancel).await
            }
            Err(reason) => Err(reason),
        };
        let epoch = match failure {
            Ok(epoch) => epoch,
            Err(reason) => match self.owner.abort(&reason).await {
                Verdict::Aborted => return self.thaw(frozen, &mut writer, reason).await,
                Verdict::Committed { epoch } => epoch,
            },
        };
        frozen.keep();
        drop(images);
        self.finish(epoch, frozen_at, &mut target).await
    }

    /// Dump and stream; an error is the reason of an abort.
    async fn transfer<S>(
        &mut self,
        dumper: Dumper,
        images: &ImageDir,
        target: &mut Target,
        writer: &mut WriteHalf<S>,
        cancel: &CancellationToken,
    ) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Move { body, run_dir, .. } = self.plan;
        hold(run_dir, MoveState::Freeze).await;
        check(body).await?;
        let descriptors = self.owner.frozen().await?;
        if cancel.is_cancelled() {
            return Err(CANCELLED.into());
        }
        self.enter(MoveState::Dump);
        let processes = members(&body.cgroup).map_err(explain)?;
        let root_pid = inner_root(&processes, body)?;
        // Not to be cancelled, see there.
        dumper.dump(root_pid).await.map_err(explain)?;
        hold(run_dir, MoveState::Dump).await;
        if !is_frozen(&body.cgroup).map_err(explain)? {
            return Err("criu has not left the program as it was: frozen".into());
        }
        self.enter(MoveState::Stream);
        let begin = self.begin(root_pid, descriptors)?;
        let progress = self.progress.clone();
        let report = || self.report(MoveState::Stream, None, None);
        let send = async {
            let sent = send_body(writer, begin, images.path(), &processes, &progress, &report, TARGET_TIMEOUT).await?;
            hold(run_dir, MoveState::Stream).await;
            send_end(writer, &sent, TARGET_TIMEOUT).await
        };
        let mut both = pin!(async { tokio::try_join!(send, self.owner.dumped()) });
        loop {
            tokio::select! {
                sent = &mut both => return sent.map(drop),
                // A quick target may be complete while we still wait for the owner.
                said = target.says() => if said? != Word::Restored {
                    return Err(OUT_OF_TURN.into());
                },
                () = cancel.cancelled() => return Err(CANCELLED.into()),
            }
        }
    }

    fn begin(&self, root_pid: i32, descriptors: Descriptors) -> Result<Begin, String> {
        let (monotonic_ns, boottime_ns) = movable::clocks(&self.plan.body).map_err(explain)?;
        Ok(Begin { version: VERSION, migration: self.plan.migration, root_pid, monotonic_ns, boottime_ns, descriptors })
    }

    /// Waits for home's decision; an error is the reason of an abort.
    async fn await_decision(&mut self, target: &mut Target, cancel: &CancellationToken) -> Result<u64, String> {
        loop {
            tokio::select! {
                biased;
                epoch = self.owner.committed() => return Ok(epoch),
                said = timeout(TARGET_TIMEOUT, target.says()) => match said.unwrap_or_else(|_| Err(silent()))? {
                    Word::Restored => {}
                    // So home has committed; its own word is still under way.
                    Word::Running => return Ok(self.owner.committed().await),
                },
                () = cancel.cancelled() => return Err(CANCELLED.into()),
            }
        }
    }

    /// After home's commit: learns when the body runs, for the record.
    async fn finish(&mut self, epoch: u64, frozen_at: Instant, target: &mut Target) -> Outcome {
        // Home commits only a complete copy; but this end may have lost faith while it still waited for its owner.
        if self.machine.state() == MoveState::Stream {
            self.step(MoveState::Restore);
        }
        self.enter(MoveState::Commit);
        let wait = async { while target.running_at.is_none() && target.says().await.is_ok() {} };
        let _ = timeout(RUNNING_TIMEOUT, wait).await;
        let downtime = target.running_at.map(|at| at.saturating_duration_since(frozen_at));
        let downtime_us = downtime.and_then(|time| u64::try_from(time.as_micros()).ok());
        self.step(MoveState::Run);
        self.report(MoveState::Run, downtime_us, None);
        Outcome::Committed { epoch }
    }

    /// Gives up before anything was sent, with nothing frozen.
    async fn give_up(&mut self, reason: &str) -> Outcome {
        match self.owner.abort(reason).await {
            Verdict::Aborted => self.aborted(reason),
            // Home commits only what was restored.
            Verdict::Committed { epoch } => {
                tracing::error!(migration = %self.plan.migration, epoch, "home has committed a migration that was never sent");
                Outcome::Committed { epoch }
            }
        }
    }

    /// Home has forgotten the migration: the body goes on here.
    async fn thaw<S: AsyncWrite>(&mut self, frozen: Frozen, to: &mut WriteHalf<S>, reason: String) -> Outcome {
        if let Err(error) = frozen.thaw() {
            tracing::error!(migration = %self.plan.migration, error = explain(error), "the program is not running again");
        }
        send_failure(to, &reason).await;
        self.aborted(&reason)
    }

    fn aborted(&mut self, reason: &str) -> Outcome {
        self.step(MoveState::Aborted);
        self.report(MoveState::Aborted, None, Some(reason.to_owned()));
        Outcome::Aborted { reason: reason.to_owned() }
    }

    fn enter(&mut self, state: MoveState) {
        self.step(state);
        self.report(state, None, None);
    }

    fn step(&mut self, state: MoveState) {
        let now_us = u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Err(error) = self.machine.enter(state, now_us) {
            tracing::error!(migration = %self.plan.migration, %error, "the record of this migration is wrong");
        }
    }

    fn report(&self, state: MoveState, downtime_us: Option<u64>, reason: Option<String>) {
        let (memory_bytes, wire_bytes) = self.progress.bytes();
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.owner.progress(MoveProgress {
            migration: self.plan.migration,
            state,
            at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            memory_bytes,
            wire_bytes,
            downtime_us,
            reason,
        });
    }
}

/// What a target may say that is no failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Restored,
    Running,
}

/// The target's half of the conversation.
struct Target {
    words: mpsc::Receiver<Result<Word, String>>,
    running_at: Option<Instant>,
}

impl Target {
    /// Listens until the stream ends or this is dropped.
    fn listen<S: AsyncRead + Send + 'static>(mut reader: ReadHalf<S>) -> Self {
        let (sender, words) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let word = tokio::select! {
                    word = read_word(&mut reader) => word,
                    () = sender.closed() => return,
                };
                let is_last = word.is_err();
                if sender.send(word).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self { words, running_at: None }
    }

    /// The target's next word. Its failure, or the end of the stream, is an error: the reason of an abort. Cancel-safe.
    async fn says(&mut self) -> Result<Word, String> {
        let word = self.words.recv().await.unwrap_or_else(|| Err("the target closed the connection".into()))?;
        if word == Word::Running {
            self.running_at = Some(Instant::now());
        }
        Ok(word)
    }
}

async fn read_word<S: AsyncRead>(reader: &mut ReadHalf<S>) -> Result<Word, String> {
    match Frame::read(reader).await {
        Ok(Some(Frame::Control(Control::Restored))) => Ok(Word::Restored),
        Ok(Some(Frame::Control(Control::Running))) => Ok(Word::Running),
        Ok(Some(Frame::Control(Control::Failed { reason }))) => Err(format!("the target gave up: {reason}")),
        Ok(Some(_)) => Err(OUT_OF_TURN.into()),
        Ok(None) => Err("the target closed the connection".into()),
        Err(error) => Err(format!("the connection to the target broke: {}", explain(error))),
    }
}

fn silent() -> String {
    format!("the target did not finish within {} s", TARGET_TIMEOUT.as_secs())
}

fn inner_root(processes: &[Process], body: &Body) -> Result<i32, String> {
    let root = processes.iter().find(|process| process.pid == body.root_pid);
    root.map(|root| root.inner_pid).ok_or_else(|| "its first process has ended".into())
}

/// An error with its causes, as one sentence.
pub(crate) fn explain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn check(body: &Body) -> Result<(), String> {
    let body = body.clone();
    blocking(move || movable::check(&body)).await.map(drop)
}

/// Does `work` on a thread of its own: that of a guest looks at files whose server needs this runtime's threads.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(explain)?.map_err(explain)
}
