//! The guest's end of the home link: dialled, kept, dialled again, and given up when home is out of
//! reach for too long.
//!
//! ```text
//!   dial ─► call ─► carry ──fails──► dial again, for at most SILENCE_LIMIT ──► lost for good
//!             └─ refused ────────────────────────────────────────────────────► lost for good
//! ```

use std::time::{Duration, Instant};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::connection::Connector,
    causes::explain,
    link::{Carrier, LinkError, call_home},
    protocol::{
        GuestRole, StreamKind,
        home::{Call, HomeToGuest},
    },
};

/// How long home may be out of reach. After it home declares the process tree lost, so it must not
/// run any longer here either.
pub const HOME_LIMIT: Duration = Duration::from_secs(30);
/// How long the first connection may take: nothing is lost yet if home cannot be reached.
const FIRST_LIMIT: Duration = Duration::from_secs(10);
/// Pauses between attempts to dial, first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What the agent knows of its way home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not reached yet.
    Dialling,
    /// There is a connection, or there was one a moment ago.
    Reached,
    /// Never again: why.
    Lost(String),
}

/// Who calls.
pub struct Caller {
    /// The way to other nodes.
    pub connector: Connector,
    /// This node's name.
    pub node: String,
    /// What this agent was started for.
    pub role: GuestRole,
}

/// Keeps the link until it is lost for good or `stop` is cancelled. `epoch` is the one under which
/// the process tree runs here.
pub async fn keep(
    caller: Caller,
    mut carrier: Carrier<HomeToGuest>,
    epoch: watch::Receiver<Option<u64>>,
    reach: watch::Sender<Reach>,
    stop: CancellationToken,
) {
    let mut last_seen = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        let session = caller.session(&mut carrier, &epoch, &reach);
        let error = tokio::select! {
            error = session => error,
            () = stop.cancelled() => return,
        };
        let was_reached = *reach.borrow() == Reach::Reached;
        let limit = if was_reached { HOME_LIMIT } else { FIRST_LIMIT };
        match error {
            SessionError::Refused(reason) => {
                return drop(reach.send_replace(Reach::Lost(format!("home refused: {reason}"))));
            }
            SessionError::Unused => return,
            SessionError::Broken { after, why } => {
                // The link's own silence counts: home has not been heard for that long.
                if let Some(heard) = after {
                    last_seen = heard;
                    pause = PAUSE.0;
                }
                if last_seen.elapsed() > limit {
                    let why =
                        format!("home ({}) was out of reach for {} s: {why}", caller.role.job.id.home, limit.as_secs());
                    return drop(reach.send_replace(Reach::Lost(why)));
                }
                tracing::warn!(error = why, "no connection to home; dialling again");
            }
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            () = stop.cancelled() => return,
        }
    }
}

/// How a connection ended.
enum SessionError {
    /// Home turned the guest away.
    Refused(String),
    /// Nothing here uses the link any more.
    Unused,
    /// It failed; `after` is until when it had worked, if it had.
    Broken { after: Option<Instant>, why: String },
}

impl Caller {
    async fn session(
        &self,
        carrier: &mut Carrier<HomeToGuest>,
        epoch: &watch::Receiver<Option<u64>>,
        reach: &watch::Sender<Reach>,
    ) -> SessionError {
        let broken = |why: String| SessionError::Broken { after: None, why };
        let GuestRole { job, home_address, migration, .. } = &self.role;
        let mut stream = match self.connector.dial(&job.id.home, home_address, StreamKind::Home, job.session).await {
            Ok(stream) => stream,
            // Neither agent becomes another release by waiting.
            Err(error) if error.is_of_versions() => return SessionError::Refused(explain(error)),
            Err(error) => return broken(explain(error)),
        };
        let call = Call {
            node: self.node.clone(),
            session: job.session,
            migration: *migration,
            epoch: *epoch.borrow(),
            received: carrier.received(),
        };
        let welcome = match call_home(&mut stream, call).await {
            Ok(welcome) => welcome,
            Err(LinkError::Refused(reason)) => return SessionError::Refused(reason),
            Err(error) => return broken(explain(error)),
        };
        reach.send_replace(Reach::Reached);
        let error = carrier.carry(stream, welcome.received).await;
        match error {
            LinkError::Refused(reason) => SessionError::Refused(reason),
            LinkError::Closed => SessionError::Unused,
            LinkError::Silent => {
                SessionError::Broken { after: Instant::now().checked_sub(crate::link::SILENCE), why: explain(error) }
            }
            other => SessionError::Broken { after: Some(Instant::now()), why: explain(other) },
        }
    }
}
