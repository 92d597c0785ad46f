//! `web`: the cluster as a page in the browser of the user who calls this, with his rights.
//!
//! ```text
//!   API ── streams (as of top) ─► State ─► messages ─► GET /api/events (server-sent) ─► page/app.js
//!   API ◄─ perform (as of top) ◄─ Wanted ◄─ POST /api/do ◄───────────────────────────────┘
//! ```
//!
//! The page and its script are part of the binary and hold no secret. Whatever reads or changes the
//! cluster needs the token of the printed address in a header, which another site's page cannot
//! know or have sent: there are no cookies.

mod serve;
mod state;
mod wanted;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc},
    time::interval,
};

use super::{
    UiError,
    args::WebArgs,
    output,
    top::{Daemons, follow},
};
use crate::{job::SessionId, sys::clock::now_ms};
use state::State;

/// Messages that a page may be behind before it is sent everything again.
const BACKLOG: usize = 256;
/// Events of the API that wait to be taken.
const WAITING: usize = 64;
/// How often the history gets a point.
const HISTORY_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest token that a file may hold.
const MIN_TOKEN_CHARS: usize = 32;

pub(super) async fn web(args: &WebArgs) -> Result<ExitCode, UiError> {
    let token = match &args.token_file {
        Some(path) => read_token(path)?,
        None => SessionId::random().to_string(),
    };
    let daemons = Daemons::new(&args.watch)?;
    let refused = |source| UiError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let site = Arc::new(Site {
        token,
        read_only: args.watch.read_only,
        daemons,
        state: Mutex::default(),
        messages: broadcast::Sender::new(BACKLOG),
    });
    if args.token_file.is_none() {
        output::print(&format!("http://{address}/#token={}\n", site.token))?;
    }
    let failed = UiError::Serve;
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        served = serve::serve(listener, site.clone()) => served.map_err(failed)?,
        () = watch(&site) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What all requests share.
struct Site {
    token: String,
    /// Nothing may be changed.
    read_only: bool,
    daemons: Daemons,
    state: Mutex<State>,
    /// What has changed, as JSON; sent while the state is locked, so that none is missed or sent
    /// twice.
    messages: broadcast::Sender<Arc<str>>,
}

impl Site {
    /// Everything as it is now, and what changes from now on.
    fn subscribe(&self) -> (Arc<str>, broadcast::Receiver<Arc<str>>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.whole(self.read_only).into(), self.messages.subscribe())
    }

    /// Takes a change and tells those who watch.
    fn change(&self, change: impl FnOnce(&mut State) -> Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = change(&mut state) {
            // It is no error that no page is watching.
            let _ = self.messages.send(message.into());
        }
    }
}

/// Follows the API's streams and keeps the history. Does not end.
async fn watch(site: &Site) {
    let (sender, mut events) = mpsc::channel(WAITING);
    let taken = async {
        while let Some(event) = events.recv().await {
            site.change(|state| state.take(event));
        }
    };
    let sampled = async {
        let mut points = interval(HISTORY_INTERVAL);
        loop {
            points.tick().await;
            site.change(|state| Some(state.sample(now_ms())));
        }
    };
    tokio::join!(follow(&site.daemons.watched, &sender), taken, sampled);
}

fn read_token(path: &Path) -> Result<String, UiError> {
    let text = fs::read_to_string(path).map_err(|source| UiError::TokenFile { path: path.into(), source })?;
    let token = text.trim();
    if token.len() < MIN_TOKEN_CHARS || !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(UiError::WeakToken { path: path.into() });
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests;
