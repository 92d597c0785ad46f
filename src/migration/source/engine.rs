//! The course of one move as its source goes it.

use std::{
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Move, Outcome, Owner, OwnerError, Place, ProcessTree, SourceError, Verdict,
    transfer::{Progress, send_end, send_failure, send_tree},
};
use crate::{
    causes::explain,
    migration::{
        criu::{DumpRequest, Dumper, Program},
        failpoint::failpoint,
        freeze::{Frozen, is_frozen_again},
        images::ImageDir,
        machine::{IllegalStep, Machine},
        moment::freeze_dumpable,
        movable,
    },
    protocol::{
        MoveProgress, MoveState,
        moves::{Begin, Control, Descriptors, Frame},
    },
    sys::clock::now_ms,
    sys::{cgroup::members, proc::Process},
};

/// How long dialling the target may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long CRIU may take for a dump; under emulation a second is usual.
const DUMP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the target may be silent after everything has been sent, or while nothing can be sent
/// to it.
const TARGET_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait, once home has committed, for the target to say that the process tree runs;
/// only the record needs it.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(5);

/// Moves a process tree. Returns when it is decided where it runs: at the target (the process tree
/// here is frozen for good and is the owner's to dispose of), or here (it has been thawed).
///
/// `connect` dials the target; it is awaited before anything is frozen. `cancel` makes the engine
/// ask home for an abort.
pub async fn run<S, C>(plan: &Move, owner: &dyn Owner, connect: C, cancel: CancellationToken) -> Outcome
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C: Future<Output = Result<S, OwnerError>> + Send,
{
    let machine = Machine::starting_at(MoveState::Precopy);
    let mut engine = Engine { plan, owner, machine, progress: Progress::default() };
    engine.report(None, None);
    let prepared = tokio::select! {
        prepared = engine.prepare(connect) => prepared,
        () = cancel.cancelled() => Err(SourceError::Cancelled),
    };
    match prepared {
        Ok(ready) => engine.move_frozen(ready, &cancel).await,
        Err(error) => engine.give_up(&explain(error)).await,
    }
}

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
    machine: Machine,
    progress: Progress,
}

impl Engine<'_> {
    async fn prepare<S>(
        &self,
        connect: impl Future<Output = Result<S, OwnerError>> + Send,
    ) -> Result<Ready<S>, SourceError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        check(&self.plan.tree).await?;
        let program = Program::find()?;
        let images = ImageDir::create(&self.plan.run_dir, self.plan.migration);
        let images = images.map_err(SourceError::io("make a directory for images"))?;
        let stream = timeout(DIAL_TIMEOUT, connect).await.map_err(|_| SourceError::NotReached(DIAL_TIMEOUT))??;
        let (reader, writer) = split(stream);
        let tree = &self.plan.tree;
        let request = DumpRequest {
            enter: matches!(tree.place, Place::Guest { .. }).then_some(tree.root_pid),
            cgroup: tree.cgroup.clone(),
            images: images.path().into(),
            limit: DUMP_TIMEOUT,
        };
        // For a guest its start looks names up in home's tree.
        let dumper = blocking(move || Dumper::start(&program, request)).await?;
        failpoint(&self.plan.run_dir, MoveState::Precopy).await;
        Ok(Ready { dumper, images, target: Target::listen(reader), writer })
    }

    /// Freeze to the end.
    async fn move_frozen<S>(&mut self, ready: Ready<S>, cancel: &CancellationToken) -> Outcome
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Ready { dumper, images, mut target, mut writer } = ready;
        let frozen_at = Instant::now();
        let frozen = match self.freeze().await {
            Ok(frozen) => frozen,
            Err(error) => {
                let reason = explain(error);
                send_failure(&mut writer, &reason).await;
                return self.give_up(&reason).await;
            }
        };
        let sent = self.transfer(dumper, &images, &mut target, &mut writer, cancel).await;
        let decided = match sent.and_then(|()| Ok(self.enter(MoveState::Restore)?)) {
            Ok(()) => self.await_decision(&mut target, cancel).await,
            Err(error) => Err(error),
        };
        let epoch = match decided {
            Ok(epoch) => epoch,
            Err(error) => {
                let reason = explain(error);
                match self.owner.abort(&reason).await {
                    Verdict::Aborted => return self.thaw(frozen, &mut writer, reason).await,
                    Verdict::Committed { epoch } => epoch,
                }
            }
        };
        frozen.keep();
        drop(images);
        match self.finish(frozen_at, &mut target).await {
            Ok(()) => Outcome::Committed { epoch },
            Err(error) => self.lost(epoch, error),
        }
    }

    async fn freeze(&mut self) -> Result<Frozen, SourceError> {
        self.enter(MoveState::Freeze)?;
        Ok(freeze_dumpable(&self.plan.tree.cgroup, || self.owner.freezing()).await?)
    }

    /// Dump and stream.
    async fn transfer<S>(
        &mut self,
        dumper: Dumper,
        images: &ImageDir,
        target: &mut Target,
        writer: &mut WriteHalf<S>,
        cancel: &CancellationToken,
    ) -> Result<(), SourceError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Move { tree, run_dir, .. } = self.plan;
        failpoint(run_dir, MoveState::Freeze).await;
        check(tree).await?;
        let descriptors = self.owner.frozen().await?;
        if cancel.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        self.enter(MoveState::Dump)?;
        let processes = members(&tree.cgroup)?;
        let root_pid = inner_root(&processes, tree)?;
        // Not to be cancelled, see there.
        dumper.dump(root_pid).await?;
        failpoint(run_dir, MoveState::Dump).await;
        if !is_frozen_again(&tree.cgroup).await? {
            return Err(SourceError::NotLeftFrozen);
        }
        self.enter(MoveState::Stream)?;
        let begin = self.begin(root_pid, descriptors)?;
        let progress = self.progress.clone();
        let report = || self.report(None, None);
        let send = async {
            let sent = send_tree(writer, begin, images.path(), &processes, &progress, &report, TARGET_TIMEOUT).await?;
            failpoint(run_dir, MoveState::Stream).await;
            send_end(writer, &sent, TARGET_TIMEOUT).await
        };
        let dumped = async { self.owner.dumped().await.map_err(SourceError::Owner) };
        let mut both = pin!(async { tokio::try_join!(send, dumped) });
        loop {
            tokio::select! {
                sent = &mut both => return sent.map(drop),
                // A quick target may be complete while we still wait for the owner.
                said = target.says() => if said? != Word::Restored {
                    return Err(SourceError::OutOfTurn);
                },
                () = cancel.cancelled() => return Err(SourceError::Cancelled),
            }
        }
    }

    fn begin(&self, root_pid: i32, descriptors: Descriptors) -> Result<Begin, SourceError> {
        let clocks = movable::clocks(&self.plan.tree);
        let (monotonic_ns, boottime_ns) = clocks.map_err(SourceError::io("read the program's clocks"))?;
        Ok(Begin { migration: self.plan.migration, root_pid, monotonic_ns, boottime_ns, descriptors })
    }

    /// Waits for home's decision: the epoch under which it has committed.
    async fn await_decision(&self, target: &mut Target, cancel: &CancellationToken) -> Result<u64, SourceError> {
        loop {
            tokio::select! {
                biased;
                epoch = self.owner.committed() => return Ok(epoch),
                said = timeout(TARGET_TIMEOUT, target.says()) => match said.map_err(|_| SourceError::Silent(TARGET_TIMEOUT))?? {
                    Word::Restored => {}
                    // So home has committed; its own word is still under way.
                    Word::Running => return Ok(self.owner.committed().await),
                },
                () = cancel.cancelled() => return Err(SourceError::Cancelled),
            }
        }
    }

    /// After home's commit: learns when the process tree runs, for the record.
    async fn finish(&mut self, frozen_at: Instant, target: &mut Target) -> Result<(), IllegalStep> {
        // Home commits only a complete copy; but this end may have lost faith while it still waited
        // for its owner.
        if self.machine.state() == MoveState::Stream {
            self.machine.enter(MoveState::Restore)?;
        }
        self.enter(MoveState::Commit)?;
        let wait = async { while target.running_at.is_none() && target.says().await.is_ok() {} };
        let _ = timeout(RUNNING_TIMEOUT, wait).await;
        let downtime = target.running_at.map(|at| at.saturating_duration_since(frozen_at));
        let downtime_us = downtime.and_then(|time| u64::try_from(time.as_micros()).ok());
        self.machine.enter(MoveState::Run)?;
        self.report(downtime_us, None);
        Ok(())
    }

    /// Home has committed what was never sent, though it commits only what was restored. Its word
    /// counts all the same: the process tree here must not run again.
    fn lost(&mut self, epoch: u64, error: IllegalStep) -> Outcome {
        let reason = format!("home has committed a copy that cannot be complete: {error}");
        tracing::error!(migration = %self.plan.migration, epoch, reason, "the program is lost");
        self.machine.give_up(true);
        self.report(None, Some(reason));
        Outcome::Committed { epoch }
    }

    /// Gives up before anything was sent, with nothing frozen.
    async fn give_up(&mut self, reason: &str) -> Outcome {
        match self.owner.abort(reason).await {
            Verdict::Aborted => self.aborted(reason),
            Verdict::Committed { epoch } => {
                self.lost(epoch, IllegalStep { from: self.machine.state(), to: MoveState::Commit })
            }
        }
    }

    /// Home has forgotten the migration: the process tree resumes here.
    async fn thaw<S: AsyncWrite>(&mut self, frozen: Frozen, to: &mut WriteHalf<S>, reason: String) -> Outcome {
        if let Err(error) = frozen.thaw() {
            tracing::error!(migration = %self.plan.migration, error = explain(error), "the program is not running again");
        }
        send_failure(to, &reason).await;
        self.aborted(&reason)
    }

    fn aborted(&mut self, reason: &str) -> Outcome {
        self.machine.give_up(false);
        self.report(None, Some(reason.to_owned()));
        Outcome::Aborted { reason: reason.to_owned() }
    }

    fn enter(&mut self, state: MoveState) -> Result<(), IllegalStep> {
        self.machine.enter(state)?;
        self.report(None, None);
        Ok(())
    }

    /// Tells the owner where the move stands.
    fn report(&self, downtime_us: Option<u64>, reason: Option<String>) {
        let (memory_bytes, wire_bytes) = self.progress.bytes();
        self.owner.progress(MoveProgress {
            migration: self.plan.migration,
            state: self.machine.state(),
            at_ms: now_ms(),
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
    words: mpsc::Receiver<Result<Word, SourceError>>,
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

    /// The target's next word. Its failure, or the end of the stream, is an error. Cancel-safe.
    async fn says(&mut self) -> Result<Word, SourceError> {
        let word = self.words.recv().await.unwrap_or(Err(SourceError::Closed))?;
        if word == Word::Running {
            self.running_at = Some(Instant::now());
        }
        Ok(word)
    }
}

async fn read_word<S: AsyncRead>(reader: &mut ReadHalf<S>) -> Result<Word, SourceError> {
    match Frame::read(reader).await? {
        Some(Frame::Control(Control::Restored)) => Ok(Word::Restored),
        Some(Frame::Control(Control::Running)) => Ok(Word::Running),
        Some(Frame::Control(Control::Failed { reason })) => Err(SourceError::GivenUp(reason)),
        Some(_) => Err(SourceError::OutOfTurn),
        None => Err(SourceError::Closed),
    }
}

fn inner_root(processes: &[Process], tree: &ProcessTree) -> Result<i32, SourceError> {
    let root = processes.iter().find(|process| process.pid == tree.root_pid);
    root.map(|root| root.inner_pid).ok_or(SourceError::HasEnded)
}

async fn check(tree: &ProcessTree) -> Result<(), SourceError> {
    let tree = tree.clone();
    blocking(move || movable::check(&tree)).await.map(drop)
}

/// Does `work` on a thread of its own: that of a guest looks at files whose server needs this
/// runtime's threads.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, SourceError>
where
    T: Send + 'static,
    E: Into<SourceError> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await?.map_err(Into::into)
}
