//! Bodies of requests. Names of pools and volumes are in the path.

use std::net::SocketAddr;
use std::path::PathBuf;

use aoe_wire::ShelfSlot;
use block::FsType;
use block::size::VolumeSize;
use pool::{Layout, MovedDisk};
use schemars::JsonSchema;
use seal::PublicKey;
use serde::{Deserialize, Serialize};

use crate::settings::ClientMac;

/// `POST /v2/pools`; at `POST /v2/plan/pool` answered with a [`super::PoolPlan`].
pub type CreatePool = pool::CreatePool<ShelfSlot, Witnesses>;

/// `POST /v2/pools/POOL/extend`; at `POST /v2/pools/POOL/extend/plan` answered with a [`super::PoolPlan`].
pub type ExtendPool = pool::ExtendPool<ShelfSlot, Witnesses>;

/// One of `POST /v2/pools/POOL/accept`, as `moved` has shown it. A type of its own, as an answer may have further fields and
/// a body may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShownDisk {
    /// Its identity in the pool.
    #[serde(default)]
    pub id: String,
    /// Its name where it is now.
    pub disk: String,
    /// Its path there.
    pub device_name: String,
    /// Its drive's serial number.
    #[serde(default)]
    pub serial: String,
    /// The machine that had it.
    pub from: String,
    /// The key of that.
    #[serde(default)]
    pub from_key: Option<PublicKey>,
    /// What the machine calls itself that has it now.
    pub to: String,
    /// The key of that.
    pub to_key: PublicKey,
}

impl From<ShownDisk> for MovedDisk {
    fn from(shown: ShownDisk) -> MovedDisk {
        let ShownDisk { id, disk, device_name, serial, from, from_key, to, to_key } = shown;
        MovedDisk { id, disk, device_name, serial, from, from_key, to, to_key }
    }
}

/// The witnesses of a pool. Where none are spoken of the supervisor adds one if that helps.
pub type Witnesses = Option<Vec<Witness>>;

/// A witness: `"e9.0"`, or `"supervisor"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Witness {
    /// A file that the supervisor keeps.
    Supervisor,
    /// A disk.
    #[serde(untagged)]
    Disk(ShelfSlot),
}

/// `POST /v2/disks/wipe/plan`, answered with a [`pool::WipePlan`], which `POST /v2/disks/wipe` takes.
pub type WipeDisks = pool::WipeDisks<ShelfSlot>;

/// `POST /v2/pools/POOL/import`.
pub type ImportPool = pool::ImportOptions;

/// `POST /v2/pools/POOL/release`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReleasePool {
    /// Whoever asks knows that all mounts, servers, exports and devices of its volumes end.
    pub confirmed: bool,
    /// Whoever asks knows that it can't be opened, and gives it up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gives_up: bool,
    /// Change nothing, answer with a [`super::Preview`].
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/rename`, answered with the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenamePool {
    /// Its new name.
    pub name: String,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/empty`; answered with a [`pool::EmptyForecast`].
pub type EmptyDisks = pool::EmptyDisks;

/// `POST /v2/pools/POOL/offline`, answered with a [`pool::OfflineForecast`]; `POST /v2/pools/POOL/online`, answered
/// with a [`pool::OnlineForecast`].
pub type NamedDisks = pool::NamedDisks;

/// `POST /v2/pools/POOL/label`; answered with a [`pool::LabelForecast`].
pub type LabelDisks = pool::LabelDisks;

/// `POST /v2/pools/POOL/set`, and `POST /v2/pools/POOL/scrub`, which sets it and begins.
pub type SetPool = pool::PoolSettings;

/// `POST /v2/pools/POOL/rebalance`; answered with a [`pool::RebalanceForecast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RebalancePool {
    /// Only say what it would do.
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/convert`; answered with a [`pool::ConvertForecast`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConvertVolume {
    /// The layout that it is to have.
    pub layout: Layout,
    /// Only say what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: VolumeSize,
    /// Its redundancy.
    pub layout: Layout,
}

/// `POST /v2/pools/POOL/volumes/VOL/extend`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendVolume {
    /// The new size, or the share of the free space to add.
    pub size: VolumeSize,
    /// Also grow the file system.
    #[serde(default)]
    pub resizefs: bool,
    /// Where a mounted file system can't be grown: unmount it for the moment.
    #[serde(default)]
    pub may_unmount: bool,
    /// Change nothing, answer with a [`super::Preview`].
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/reduce`, answered with the volume; streamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReduceVolume {
    /// The new size.
    pub size_bytes: u64,
    /// Check its file system and make that smaller first.
    #[serde(default)]
    pub resizefs: bool,
    /// Also where it isn't known how much of the volume is used by what it carries.
    #[serde(default)]
    pub force: bool,
    /// Change nothing, answer with a [`super::Preview`].
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/verify`; streamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyVolume {
    /// One copy only, counted from 0.
    pub copy: Option<u8>,
}

/// `POST /v2/pools/POOL/volumes/VOL/mkfs`; streamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MakeFs {
    /// The file system.
    pub fstype: FsType,
    /// Overwrite what is recognised on the volume.
    pub force: bool,
    /// Only check.
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/rename`, answered with the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameVolume {
    /// Its new name, without that of the pool.
    pub name: String,
}

/// `DELETE /v2/pools/POOL/volumes/VOL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RemoveVolume {
    /// Only check.
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/accept-loss`, answered with what is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AcceptLoss {
    /// Only say what.
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/mount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MountVolume {
    /// Where.
    pub path: PathBuf,
    /// The file system on the volume; without it, what is found there.
    #[serde(default)]
    pub fstype: Option<FsType>,
    /// Mount options.
    #[serde(default)]
    pub options: Vec<String>,
    /// Where the volume is mounted now, or is to be by its settings: it is unmounted there. Without it
    /// a volume that has a mount is left alone.
    #[serde(default)]
    pub move_from: Option<PathBuf>,
    /// Change nothing, answer with a [`super::Preview`].
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/unmount`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnmountVolume {
    /// Change nothing, answer with a [`super::Preview`].
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/ftp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeFtp {
    /// Where to listen; the configuration decides without it.
    pub listen: Option<SocketAddr>,
}

/// `POST /v2/pools/POOL/volumes/VOL/export`; answered with the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportVolume {
    /// Address of the export; one that is free without it.
    #[serde(default)]
    pub address: Option<ShelfSlot>,
    /// Interfaces to answer on; all of the supervisor's configuration when empty.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Clients to answer.
    #[serde(default)]
    pub allow: Vec<ClientMac>,
    /// Whoever can send frames is answered: instead of clients.
    #[serde(default)]
    pub everybody: bool,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Only check whether it could be done, and answer what it would.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v2/pools/POOL/volumes/VOL/unexport`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnexportVolume {
    /// The export to end; all of the volume's without it.
    pub address: Option<ShelfSlot>,
}

/// `POST /v2/disks/DISK/reset-epoch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetEpoch {
    /// The same disk again: it says that the name in the path isn't a slip.
    pub force_disk: ShelfSlot,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pool::FailureDomain;

    #[test]
    fn bodies_are_read_as_documented_and_misspelt_fields_are_refused() {
        let create: CreatePool =
            serde_json::from_str(r#"{"name":"p","disks":["e1.0","e2.0"]}"#).unwrap();
        assert_eq!(create.failure_domain, FailureDomain::Node);
        assert_eq!(create.disks[1], ShelfSlot { shelf: 2, slot: 0 });
        assert_eq!(create.witnesses, None);
        let text = r#"{"disks":[],"witnesses":["supervisor","e3.0"],"force_disks":[]}"#;
        let extend: ExtendPool = serde_json::from_str(text).unwrap();
        let disk = Witness::Disk(ShelfSlot { shelf: 3, slot: 0 });
        assert_eq!(extend.witnesses, Some(vec![Witness::Supervisor, disk]));
        assert_eq!(serde_json::to_string(&extend).unwrap(), text);
        // An older supervisor doesn't know what nobody speaks of.
        let unspoken: ExtendPool = serde_json::from_str(r#"{"disks":["e3.0"]}"#).unwrap();
        assert!(!serde_json::to_string(&unspoken).unwrap().contains("witnesses"));
        let none: ExtendPool = serde_json::from_str(r#"{"witnesses":[]}"#).unwrap();
        assert_eq!(none.witnesses, Some(Vec::new()));
        assert!(serde_json::to_string(&none).unwrap().contains(r#""witnesses":[]"#));
        let volume: CreateVolume =
            serde_json::from_str(r#"{"name":"v","size":"100%FREE","layout":"mirror:2"}"#).unwrap();
        assert_eq!(volume.size, VolumeSize::PercentFree(100));
        assert_eq!(serde_json::from_str::<MakeFs>("{}").unwrap(), MakeFs::default());
        let never: SetPool = serde_json::from_str(r#"{"rebuild_delay_secs":null}"#).unwrap();
        assert_eq!((never.rebuild_delay_secs, never.scrub_every_secs), (Some(None), None));
        let said = serde_json::to_string(&never).unwrap();
        assert_eq!(said, r#"{"rebuild_delay_secs":null}"#);
        let spare: SetPool = serde_json::from_str(r#"{"spare":"node"}"#).unwrap();
        assert_eq!(spare.spare, Some(Some(pool::Spare::Node)));
        assert!(
            serde_json::from_str::<SetPool>(r#"{"spare":"1G"}"#).is_err(),
            "bytes are a number"
        );
        for wrong in [
            r#"{"name":"p","disk":["e1.0"]}"#,
            r#"{"name":"p","disks":["1.0"]}"#,
            r#"{"name":"p","disks":[],"witnesses":["me"]}"#,
            r#"{"name":"p","disks":[],"failure_domain":"rack"}"#,
        ] {
            assert!(serde_json::from_str::<CreatePool>(wrong).is_err(), "{wrong}");
        }
    }

    /// What `moved` answers may be sent as it is; a later supervisor's answer is understood, and no body with more.
    #[test]
    fn what_is_shown_is_open_and_what_is_accepted_is_closed() {
        let moved = MovedDisk {
            id: "17".to_owned(),
            disk: "e2.0".to_owned(),
            device_name: "/dev/sdb".to_owned(),
            serial: "WD-1".to_owned(),
            from: "n1".to_owned(),
            from_key: Some(PublicKey([1; 32])),
            to: "n2".to_owned(),
            to_key: PublicKey([2; 32]),
        };
        let mut told = serde_json::to_value(&moved).unwrap();
        let shown: ShownDisk = serde_json::from_value(told.clone()).unwrap();
        assert_eq!(MovedDisk::from(shown), moved);
        told["later"] = 1.into();
        assert_eq!(serde_json::from_value::<MovedDisk>(told.clone()).unwrap(), moved);
        assert!(serde_json::from_value::<ShownDisk>(told).is_err());
    }
}
