//! Where a lab's things are and how they are called. Everything follows from the lab's directory, so
//! that `lab down` finds what to remove whatever state it meets.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use control::api::{ApiError, ErrorCode};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use seal::Security;
use serde::{Deserialize, Serialize};

use terminal::Slow;

/// How long a command waits for another one of the same lab: longer than `lab up` takes.
const LOCK_LIMIT: Duration = Duration::from_secs(300);
/// How often it is looked at meanwhile.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Where a lab is unless --dir says otherwise.
pub const LAB_DIR: &str = "/var/lib/etherpool/lab";

/// A lab's directory and the names that follow from it.
pub struct Place {
    dir: PathBuf,
    prefix: String,
}

/// What the lab consists of; kept in `lab.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabPlan {
    pub mtu: u32,
    pub ftp_port: u16,
    /// What the machines demand of each other.
    #[serde(default)]
    pub security: Security,
    pub nodes: Vec<NodePlan>,
    /// The highest shelf of a node that was destroyed: a new one isn't taken for it.
    #[serde(default)]
    pub nodes_made: u16,
    /// Layout of the volume; none: two copies where there is more than one disk.
    #[serde(default)]
    pub layout: Option<String>,
    /// The pool was made: from then on it is waited for, however little of it is present.
    #[serde(default)]
    pub pool_made: bool,
}

/// A machine of the lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodePlan {
    pub name: String,
    pub shelf: u16,
    pub node_id: String,
    pub disk_bytes: Vec<u64>,
}

/// Where the supervisor of the lab in a directory is asked.
pub fn api_socket(dir: &Path) -> PathBuf {
    dir.join("supervisor/run/api.sock")
}

impl Place {
    pub fn new(dir: &Path) -> anyhow::Result<Place> {
        let dir = std::path::absolute(dir)?;
        // Interface and namespace names are short: the default lab gets a plain name, others one
        // that follows from their directory.
        let prefix = if dir == Path::new(LAB_DIR) {
            "eplab".to_owned()
        } else {
            format!("eplab{:08x}", block::crc32c(dir.as_os_str().as_encoded_bytes()))
        };
        Ok(Place { dir, prefix })
    }

    /// Makes the directory.
    pub fn make(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make the lab's directory {}", self.dir.display()))
    }

    /// Holds the directory until the command ends: two commands at once would start things twice.
    pub fn lock(&self) -> anyhow::Result<OwnedFd> {
        let path = self.dir.join("lock");
        let file = fs::File::options().create(true).truncate(false).write(true).open(&path);
        let file = OwnedFd::from(file.with_context(|| format!("cannot open {}", path.display()))?);
        let _slow = Slow::begin("another command for this lab to end", true);
        let end = Instant::now() + LOCK_LIMIT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    let limit = LOCK_LIMIT.as_secs();
                    let dir = self.dir.display();
                    return Err(ApiError::new(
                        ErrorCode::Busy,
                        format!(
                            "another command for the lab in {dir} has not ended within {limit} s"
                        ),
                    )
                    .remedy(format!("see which one holds it: fuser -v {}", path.display()))
                    .into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The namespace with the bridge and the supervisor's packet sockets.
    pub fn switch_netns(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    pub fn node_netns(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// Every namespace of this lab starts with this.
    pub fn netns_prefix(&self) -> String {
        format!("{}-", self.prefix)
    }

    pub fn plan_file(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    pub fn disk_file(&self, node: &str, disk: usize) -> PathBuf {
        self.dir.join("disks").join(format!("{node}d{disk}.img"))
    }

    pub fn supervisor_dir(&self) -> PathBuf {
        self.dir.join("supervisor")
    }

    /// The token by which nodes join the supervisor.
    pub fn token_file(&self) -> PathBuf {
        self.supervisor_dir().join("token")
    }

    pub fn api_socket(&self) -> PathBuf {
        api_socket(&self.dir)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("hyperspace")
    }

    pub fn log_file(&self, who: &str) -> PathBuf {
        self.dir.join("log").join(format!("{who}.log"))
    }

    pub fn pid_file(&self, who: &str) -> PathBuf {
        self.dir.join("pid").join(who)
    }

    pub fn load_plan(&self) -> anyhow::Result<Option<LabPlan>> {
        let file = self.plan_file();
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(serde_json::from_str(&text).with_context(|| {
                format!(
                    "{} is damaged; the lab's disks beside it are left as they are: put the file back, \
                     or make another lab with --dir",
                    file.display()
                )
            })?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// The plan, for commands that need a lab that is up.
    pub fn plan(&self) -> anyhow::Result<LabPlan> {
        self.exists()?;
        self.load_plan()?.ok_or_else(|| self.nothing())
    }

    /// Whether there is a lab, in whatever state: its plan is written first and removed last.
    pub fn exists(&self) -> anyhow::Result<()> {
        match self.plan_file().symlink_metadata() {
            Ok(_) => Ok(()),
            Err(_) => Err(self.nothing()),
        }
    }

    fn nothing(&self) -> anyhow::Error {
        ApiError::new(ErrorCode::NotFound, format!("there is no lab in {}", self.dir.display()))
            .remedy("start one with `etherpool lab up`, or name its directory with --dir")
            .into()
    }

    pub fn store_plan(&self, plan: &LabPlan) -> anyhow::Result<()> {
        let temporary = self.plan_file().with_extension("new");
        write_private(&temporary, &serde_json::to_vec_pretty(plan)?)?;
        fs::rename(&temporary, self.plan_file())?;
        Ok(())
    }
}

/// Opens a file that is only its owner's, also where a lab of before made it for everybody to read.
pub fn open_private(file: &Path) -> io::Result<fs::File> {
    let opened =
        fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    opened.set_permissions(Permissions::from_mode(0o600))?;
    Ok(opened)
}

/// Writes such a file.
pub fn write_private(file: &Path, contents: &[u8]) -> io::Result<()> {
    let mut opened = open_private(file)?;
    opened.set_len(0)?;
    opened.write_all(contents)
}

/// Makes a directory that only its owner looks into.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}

impl LabPlan {
    /// The highest shelf of the nodes that there are.
    pub fn highest_shelf(&self) -> u16 {
        self.nodes.iter().map(|node| node.shelf).max().unwrap_or(0)
    }

    pub fn node(&self, name: &str) -> anyhow::Result<&NodePlan> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let names: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            ApiError::new(ErrorCode::NotFound, format!("the lab has no {name}"))
                .remedy(format!("its nodes are {}", names.join(", ")))
                .into()
        })
    }
}
