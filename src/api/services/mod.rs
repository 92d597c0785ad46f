//! The services: they find out who calls and what he may do, check names, and read views or hand
//! commands to the daemon.

mod cluster;
mod event;
mod migration;
mod once;
mod page;
mod peer;
mod process;
mod watch;

use std::{future::Future, sync::Arc};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

pub use cluster::Cluster;
pub use event::Events;
pub use migration::Migrations;
pub use peer::Peers;
pub use process::Processes;

use super::{ApiError, Backend, Caller};

/// What every service has.
#[derive(Clone)]
pub struct Context {
    /// The daemon.
    pub backend: Arc<dyn Backend>,
    /// Ends the watches when the daemon ends.
    pub shutdown: CancellationToken,
}

/// Who sent a request; the server has attached it to the connection.
fn caller<T>(request: &Request<T>) -> Result<Caller, ApiError> {
    let unknown = || ApiError::Internal { what: "finding out who calls".to_owned() };
    request.extensions().get::<Caller>().cloned().ok_or_else(unknown)
}

/// Carries a command through to its end even if the caller goes away meanwhile: nothing is left
/// half done.
async fn complete<T: Send + 'static>(
    command: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(command).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            tracing::error!(%error, "a command of the API ended unexpectedly");
            Err(ApiError::Internal { what: "carrying out a command".to_owned() }.into())
        }
    }
}
