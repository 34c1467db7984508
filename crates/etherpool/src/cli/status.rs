//! `etherpool status`: everything at a glance; its exit code says whether all is well.

use control::api::{ServiceState, Status};
use control::exit::Exit;

use super::output;
use super::{Context, Failure};

/// Runs it.
pub async fn run(context: &Context) -> Result<Exit, Failure> {
    let status: Status = context.client.get("/v1/status").await?;
    output::show(context.json, &status, || output::status(&status))?;
    Ok(exit_of(&status))
}

fn exit_of(status: &Status) -> Exit {
    let waiting = |service: &control::api::VolumeServices| {
        [&service.mount, &service.ftp].contains(&&ServiceState::Waiting)
            || service.trouble.is_some()
    };
    let mut ours = status.pools.iter().filter(|report| report.is_ours());
    let healthy = status.engine.is_some()
        && status.troubles.is_empty()
        && ours.all(pool::PoolReport::is_healthy)
        && !status.services.iter().any(waiting);
    Exit::of_health(healthy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::samples;

    #[test]
    fn the_exit_code_says_whether_all_is_well() {
        let well = samples::status();
        assert_eq!(exit_of(&well), Exit::Ok);

        let mut status = well.clone();
        status.engine = None;
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well.clone();
        status.pools[0].state = pool::PoolState::Degraded;
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well.clone();
        status.pools[0].state = pool::PoolState::Foreign { owner: "other".into(), epoch: 3 };
        assert_eq!(exit_of(&status), Exit::Ok);

        let mut status = well.clone();
        status.troubles.push("pools.json can't be written".into());
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well.clone();
        status.services[0].ftp = ServiceState::Waiting;
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well;
        status.services[0].trouble = Some("it has not answered for 11 s".into());
        assert_eq!(exit_of(&status), Exit::Degraded);
    }
}
