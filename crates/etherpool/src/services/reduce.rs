//! Reducing volumes. Never below what is on them: how far that goes is looked at first, and again after a file
//! system was made smaller. Only then the engine gives up what lies beyond. A crash in between leaves a larger
//! volume with a smaller file system, and reducing can be repeated.

use block::VolumeName;
use block::size::Human;
use control::api::{ApiError, ErrorCode, Preview, ReduceVolume};
use control::channel::EngineRequest;
use control::settings::VolumeSettings;
use frontend::filesystem::{self, Extent, Shrinking};
use pool::{Progress, VolumeForecast, VolumeReport};
use tokio::sync::mpsc::UnboundedSender;

use super::Services;
use super::filesystems::Told;
use super::mounts::{check_open, check_writable};
use super::operations::{check_detached, check_not_used_here, find};
use super::troubles::filesystem_trouble;

/// What is done before the engine gives anything up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum First {
    /// What there is ends before the volume's new end.
    Nothing,
    /// The file system is checked and made smaller.
    Shrink,
    /// Nobody knows how far what is there goes, and somebody said that it shall be so.
    Forced(String),
}

impl Services {
    /// Makes a volume smaller, and its file system before it when asked.
    pub async fn reduce_volume(
        &self,
        name: &VolumeName,
        request: ReduceVolume,
        progress: UnboundedSender<Progress>,
    ) -> Result<VolumeReport, ApiError> {
        let _turn = self.turns.on(name).await?;
        self.check_unused_for_reduction(name, &request).await?;
        let bytes = request.size_bytes;
        let told = Told { progress: &progress, bytes };
        let _: VolumeForecast = self.plan_reduction(name, bytes).await?;
        self.on_bare_device(name, async |device| {
            let look = async || {
                let extent = filesystem::extent(device.clone()).await;
                extent.map_err(|error| filesystem_trouble(error).error)
            };
            if first_of(name, &look().await?, &request)? != First::Shrink {
                return Ok(());
            }
            let shrunk = filesystem::shrink(device.clone(), bytes, told.reader()).await;
            shrunk.map_err(|error| filesystem_trouble(error).error)?;
            // What the tool has made is what counts, not what it was asked for.
            let request = ReduceVolume { resizefs: false, ..request.clone() };
            first_of(name, &look().await?, &request).map(drop)
        })
        .await?;
        let reduce = EngineRequest::ReduceVolume { volume: name.clone(), bytes };
        let reduced = self.engine.call(reduce).await;
        self.look_now();
        reduced.map_err(|error: ApiError| match error.remedy {
            None if request.resizefs => error.remedy(format!(
                "its file system may be smaller by now, which does no harm; try again: etherpool \
                 volume reduce {name} --size {bytes} --resizefs"
            )),
            _ => error,
        })
    }

    /// What reducing would do, after the checks that can be made before it.
    pub async fn reduce_preview(
        &self,
        name: &VolumeName,
        request: &ReduceVolume,
    ) -> Result<Preview, ApiError> {
        let _turn = self.turns.on(name).await?;
        let (present, settings) = self.check_unused_for_reduction(name, request).await?;
        let forecast = self.plan_reduction(name, request.size_bytes).await?;
        let (first, smallest) = self
            .on_bare_device(name, async |device| {
                let trouble = |error| filesystem_trouble(error).error;
                let extent = filesystem::extent(device.clone()).await.map_err(trouble)?;
                let first = first_of(name, &extent, request)?;
                let smallest = match first {
                    First::Shrink => Some(filesystem::smallest(&device).await.map_err(trouble)?),
                    _ => None,
                };
                if let Some(smallest_bytes) = smallest.filter(|least| request.size_bytes < *least) {
                    let full = filesystem::FilesystemError::TooFull { device, smallest_bytes };
                    return Err(trouble(full));
                }
                Ok((first, smallest))
            })
            .await?;
        let mut effects = vec![format!(
            "{name} shrinks from {} to {}; another volume of its layout could have {} then",
            Human(present.size_bytes),
            Human(forecast.size_bytes),
            Human(forecast.left_bytes)
        )];
        effects.push(match (first, smallest) {
            (First::Nothing, _) => {
                "nothing that is recognised on it goes so far; what lies beyond is lost".to_owned()
            }
            (First::Forced(found), _) => format!(
                "it carries {found}, and how far that goes isn't known: what lies beyond is lost"
            ),
            (First::Shrink, smallest) => format!(
                "its file system is checked and made smaller first (it needs {} at least)",
                Human(smallest.unwrap_or(0))
            ),
        });
        for export in &settings.exports {
            effects.push(format!("clients of aoe:{} see the new size", export.address));
        }
        Ok(Preview { effects, ends_something: true, ..Preview::default() })
    }

    async fn plan_reduction(
        &self,
        name: &VolumeName,
        bytes: u64,
    ) -> Result<VolumeForecast, ApiError> {
        self.engine.call(EngineRequest::PlanReduction { volume: name.clone(), bytes }).await
    }

    /// Nobody here may be using what goes; a client of an export sees to what is on it himself.
    async fn check_unused_for_reduction(
        &self,
        name: &VolumeName,
        request: &ReduceVolume,
    ) -> Result<(VolumeReport, VolumeSettings), ApiError> {
        let pools = self.fresh_pools().await?;
        let (pool, volume) = find(&pools, name)?;
        check_open(pool)?;
        check_writable(pool)?;
        let settings = VolumeSettings::from_properties(&volume.properties);
        check_not_used_here(name, &settings)?;
        if let Some(export) = settings.exports.first().filter(|_| request.resizefs) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("{name} is exported as aoe:{}: its client may be using it", export.address),
            )
            .remedy(format!(
                "have the client make its file system smaller, then reduce without --resizefs; or end the \
                 export first: etherpool volume unexport {name}"
            )));
        }
        let kept = self.reconciler.volume(name);
        check_detached(name, kept.pause().await?.device().is_some())?;
        Ok((volume.clone(), settings))
    }
}

/// What is to be done first, or why it isn't done.
fn first_of(name: &VolumeName, extent: &Extent, request: &ReduceVolume) -> Result<First, ApiError> {
    let Some(found) = &extent.found else { return Ok(First::Nothing) };
    let refused = |why: String, what_to_do: String| {
        Err(ApiError::new(ErrorCode::Refused, format!("{name} is left as it is: {why}"))
            .remedy(what_to_do))
    };
    let Some(used) = extent.bytes else {
        if request.force {
            return Ok(First::Forced(found.clone()));
        }
        return refused(
            format!("it carries {found}, and how far that goes isn't known"),
            "make sure that nothing of it lies beyond the new end; `etherpool volume reduce --help` \
             says how to tell that"
                .to_owned(),
        );
    };
    if used <= request.size_bytes {
        return Ok(First::Nothing);
    }
    let too_large = format!(
        "its {found} has {used} bytes, and with {} it would be destroyed",
        request.size_bytes
    );
    match (extent.shrinking, request.resizefs) {
        (Shrinking::Offline, true) => Ok(First::Shrink),
        (Shrinking::Offline, false) => refused(
            too_large,
            format!("the smallest size is {used}; --resizefs makes the file system smaller first"),
        ),
        (Shrinking::Mounted, _) => refused(
            too_large,
            format!(
                "the smallest size is {used}; it becomes smaller while it is mounted (btrfs filesystem \
                 resize), then unmount it and reduce without --resizefs"
            ),
        ),
        (Shrinking::Never, _) => refused(
            too_large,
            format!(
                "the smallest size is {used}: XFS can't be made smaller; make a smaller volume, copy its \
                 files, and remove this one"
            ),
        ),
        (Shrinking::Unknown, _) => refused(too_large, format!("the smallest size is {used}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(
        (used, shrinking): (Option<u64>, Shrinking),
        (size_bytes, resizefs, force): (u64, bool, bool),
    ) -> Result<First, (ErrorCode, String)> {
        let name: VolumeName = "p/v".parse().unwrap_or_else(|error| panic!("{error}"));
        let extent = Extent { found: Some("something".into()), bytes: used, shrinking };
        let request = ReduceVolume { size_bytes, resizefs, force, dry_run: false };
        first_of(&name, &extent, &request)
            .map_err(|error| (error.code, error.remedy.unwrap_or_default()))
    }

    #[test]
    fn nothing_that_is_on_a_volume_is_cut_off() {
        let shrinkings =
            [Shrinking::Offline, Shrinking::Mounted, Shrinking::Never, Shrinking::Unknown];
        for shrinking in shrinkings {
            let fits = (Some(100), shrinking);
            assert_eq!(first(fits, (100, false, false)), Ok(First::Nothing));
            // Not by force either.
            for asked in [(99, false, false), (99, false, true), (99, true, true)] {
                match first(fits, asked) {
                    Ok(First::Shrink) => assert!(shrinking == Shrinking::Offline && asked.1),
                    Err((ErrorCode::Refused, remedy)) => {
                        assert!(remedy.contains("the smallest size is 100"), "{remedy}");
                    }
                    other => panic!("{shrinking:?} {asked:?}: {other:?}"),
                }
            }
        }
        let unknown = (None, Shrinking::Unknown);
        assert!(first(unknown, (99, true, false)).is_err());
        assert_eq!(first(unknown, (99, false, true)), Ok(First::Forced("something".into())));
    }
}
