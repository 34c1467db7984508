//! `lab up`: from nothing, or from whatever is there, to a served file system. Every step looks at
//! what exists first, so that starting twice is harmless and what died is started again.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use control::api::{ApiError, ErrorCode};
use pool::PoolState;
use pool::metadata::Layout;
use seal::Security;
use serde_json::Value;

use crate::command::{etherpool, etherpool_json};
use crate::place::{LabPlan, NodePlan, Place, make_private_dir, open_private, write_private};
use crate::{network, process};
use terminal::QUIET;

/// The lab's pool and volume.
pub const POOL: &str = "cluster";
pub const VOLUME: &str = "hyperspace";

#[derive(Args, Debug)]
pub struct UpArgs {
    /// Machines with disks.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Disks of each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
    disks: u8,
    /// Size of each disk (sparse files); a list gives each node its own: 1G,2G,3G.
    #[arg(long, default_value = "1G", value_delimiter = ',')]
    size: Vec<String>,
    /// Largest Ethernet payload on the lab's network.
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(1500..=65535))]
    mtu: u32,
    /// Layout of the volume: raid0, mirror:2, mirror:3, ...; two copies by default.
    #[arg(long, conflicts_with = "bare")]
    layout: Option<Layout>,
    /// Port of the FTP server on 127.0.0.1.
    #[arg(long, default_value_t = 2121)]
    ftp_port: u16,
    /// What machines and supervisor demand of each other on the lab's network: none, authenticate, encrypt.
    #[arg(long, default_value = "encrypt")]
    security: Security,
    /// Start machines and supervisor only; make no pool.
    #[arg(long)]
    bare: bool,
}

/// How long machines can be added to a lab, which is for trying things.
const TOKEN_VALID: &str = "90d";
/// How long machines of the lab may take for what normally takes moments.
const TIMEOUT: Duration = Duration::from_secs(60);

pub fn up(place: &Place, args: &UpArgs) -> anyhow::Result<()> {
    check_tools()?;
    let mut plan = match place.load_plan()? {
        Some(plan) => plan,
        None => {
            let plan = plan(args)?;
            place.store_plan(&plan)?;
            plan
        }
    };
    network::ensure_switch(place, plan.mtu)?;
    ensure_token(place, &plan)?;
    for node in &plan.nodes {
        network::ensure_node(place, &node.name, plan.mtu)?;
        start_node(place, node, plan.security)?;
    }
    start_supervisor(place, &plan)?;
    wait_for_api(place)?;
    if args.bare {
        wait_for_disks(place, &plan.nodes)?;
        println!("{} nodes and a supervisor run; no pool was made.", plan.nodes.len());
        return Ok(());
    }
    if !plan.pool_made {
        ensure_pool(place, &plan)?;
        plan.pool_made = true;
        place.store_plan(&plan)?;
    }
    ensure_volume(place, &plan)?;
    say_what_next(place, &plan);
    Ok(())
}

/// Adds a machine to a lab that is up. The pool takes its disks by `pool extend`.
pub fn add_node(place: &Place, size: Option<&str>, disks: Option<u8>) -> anyhow::Result<()> {
    let mut plan = place.plan()?;
    let first = plan.nodes.first().map(|node| node.disk_bytes.as_slice()).unwrap_or_default();
    let bytes = match size {
        Some(size) => disk_size(size)?,
        None => first.first().copied().unwrap_or(1 << 30),
    };
    let count = disks.map_or(first.len().max(1), usize::from);
    let number = usize::from(plan.nodes_made.max(plan.highest_shelf())) + 1;
    let node = node_plan(number, vec![bytes; count])?;
    plan.nodes.push(node.clone());
    place.store_plan(&plan)?;
    network::ensure_node(place, &node.name, plan.mtu)?;
    start_node(place, &node, plan.security)?;
    wait_for_disks(place, std::slice::from_ref(&node))?;
    let disks: Vec<_> = (0..count).map(|slot| format!("e{}.{slot}", node.shelf)).collect();
    println!(
        "added {}; now for example: {}",
        node.name,
        etherpool_line(place, &format!("pool extend {POOL} {}", disks.join(" ")))
    );
    Ok(())
}

/// Starts a node's process unless it runs; makes its disks unless they are there.
pub fn start_node(place: &Place, node: &NodePlan, security: Security) -> anyhow::Result<i32> {
    if let Some(pid) = process::running(place, &node.name) {
        return Ok(pid);
    }
    let dir = place.node_dir(&node.name);
    make_private_dir(&dir)?;
    let mut exports = String::new();
    for (slot, bytes) in node.disk_bytes.iter().enumerate() {
        let file = place.disk_file(&node.name, slot);
        if let Some(parent) = file.parent() {
            make_private_dir(parent)?;
        }
        let disk = open_private(&file)?;
        // Kept as it is if it exists: a lab that is started again has its data.
        if disk.metadata()?.len() == 0 {
            disk.set_len(*bytes)?;
        }
        exports.push_str(&format!(
            "\n[[export]]\naddress = \"e{}.{slot}\"\npath = {:?}\n",
            node.shelf,
            file.display().to_string()
        ));
    }
    let token = match security {
        Security::None => String::new(),
        _ => format!("token-file = {:?}\n", place.token_file().display().to_string()),
    };
    let config = format!(
        "# Written by `etherpool lab`.\nname = {:?}\nnode-id = {:?}\nshelf = {}\nstate-dir = {:?}\nrun-dir = {:?}\ninterfaces = [{:?}]\nsecurity = \"{security}\"\n{token}{exports}",
        node.name,
        node.node_id,
        node.shelf,
        dir.join("state").display().to_string(),
        dir.join("run").display().to_string(),
        network::NODE_INTERFACE,
    );
    let file = dir.join("node.toml");
    write_private(&file, config.as_bytes())?;
    let netns = place.node_netns(&node.name);
    process::start(
        place,
        &node.name,
        Some(&netns),
        &["node", "--config", &file.display().to_string()],
    )
}

/// Has the supervisor make the token by which the nodes join it, where it demands keys: once, when it runs for the first
/// time. Nodes remember whom they joined; those that are added later join by it too.
fn ensure_token(place: &Place, plan: &LabPlan) -> anyhow::Result<()> {
    let file = place.token_file();
    if plan.security == Security::None || file.exists() {
        return Ok(());
    }
    start_supervisor(place, plan)?;
    wait_for_api(place)?;
    let token = etherpool(place, ["token", "create", "--valid", TOKEN_VALID])?;
    let made = fs::File::options().create_new(true).write(true).mode(0o600).open(&file);
    let mut made = made.with_context(|| format!("cannot make {}", file.display()))?;
    Ok(made.write_all(token.as_bytes())?)
}

/// Starts the supervisor unless it runs.
pub fn start_supervisor(place: &Place, plan: &LabPlan) -> anyhow::Result<i32> {
    if let Some(pid) = process::running(place, "supervisor") {
        return Ok(pid);
    }
    let dir = place.supervisor_dir();
    fs::create_dir_all(&dir)?;
    let path = |name: &str| dir.join(name).display().to_string();
    // Its volume takes all the space there is, on purpose.
    let config = format!(
        "# Written by `etherpool lab`.\nstate-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\nsecurity = \"{}\"\n\n\
         [[interfaces]]\nname = {:?}\nnetns = {:?}\n\n\
         [ftp]\nlisten = \"127.0.0.1:{}\"\nusers-file = {:?}\n\n\
         [mount]\nroots = [\"/srv\", \"/mnt\", \"/media\", {:?}]\n\n\
         [alerts]\nnobody = true\nignore = [\"pool-space\"]\n",
        path("state"),
        path("run"),
        path("dev"),
        plan.security,
        network::SUPERVISOR_INTERFACE,
        place.switch_netns(),
        plan.ftp_port,
        path("ftp-users"),
        place.dir().display().to_string(),
    );
    let users = dir.join("ftp-users");
    if !users.exists() {
        write_private(&users, lab_user()?.as_bytes())?;
    }
    let file = dir.join("supervisor.toml");
    write_private(&file, with_own_settings(&dir, &config)?.as_bytes())?;
    process::start(
        place,
        "supervisor",
        None,
        &["supervisor", "--config", &file.display().to_string()],
    )
}

/// The supervisor's settings, with those of a file `own.toml` beside it, which take their places.
fn with_own_settings(dir: &std::path::Path, config: &str) -> anyhow::Result<String> {
    let Ok(own) = fs::read_to_string(dir.join("own.toml")) else { return Ok(config.to_owned()) };
    let mut settings: toml::Table = config.parse()?;
    let own: toml::Table = own.parse().context("own.toml")?;
    settings.extend(own);
    Ok(toml::to_string(&settings)?)
}

/// The lab's FTP user: `lab`, password `lab`, served on loopback only.
fn lab_user() -> anyhow::Result<String> {
    Ok(format!("lab:{}\n", frontend::ftp::hash_password("lab")?))
}

fn plan(args: &UpArgs) -> anyhow::Result<LabPlan> {
    let sizes =
        args.size.iter().map(|size| disk_size(size)).collect::<anyhow::Result<Vec<u64>>>()?;
    if sizes.len() != 1 && sizes.len() != usize::from(args.nodes) {
        let problem = format!("--size wants one size, or one for each of the {} nodes", args.nodes);
        return Err(ApiError::new(ErrorCode::Invalid, problem).into());
    }
    let mut nodes = Vec::new();
    for number in 1..=usize::from(args.nodes) {
        let bytes = sizes.get(number - 1).or(sizes.first()).copied().unwrap_or(1 << 30);
        nodes.push(node_plan(number, vec![bytes; usize::from(args.disks)])?);
    }
    let layout = args.layout.map(|layout| layout.to_string());
    let UpArgs { mtu, ftp_port, security, .. } = *args;
    Ok(LabPlan { mtu, ftp_port, security, nodes, nodes_made: 0, layout, pool_made: false })
}

fn disk_size(text: &str) -> anyhow::Result<u64> {
    let size = block::size::parse_size(text);
    size.map_err(|error| ApiError::new(ErrorCode::Invalid, format!("--size: {error}")).into())
}

fn node_plan(number: usize, disk_bytes: Vec<u64>) -> anyhow::Result<NodePlan> {
    let id = os::random_bytes::<16>()?;
    Ok(NodePlan {
        name: format!("n{number}"),
        shelf: u16::try_from(number)?,
        node_id: uuid::Builder::from_random_bytes(id).into_uuid().to_string(),
        disk_bytes,
    })
}

fn ensure_pool(place: &Place, plan: &LabPlan) -> anyhow::Result<()> {
    let pools = etherpool_json(place, ["pool", "list", "--json"])?;
    if entry(&pools, "pools", POOL).is_some() {
        return Ok(());
    }
    wait_for_disks(place, &plan.nodes)?;
    let domain = if plan.nodes.len() > 1 { "node" } else { "disk" };
    let mut args =
        ["pool", "create", POOL, "--failure-domain", domain, "--yes"].map(str::to_owned).to_vec();
    args.extend(addresses(&plan.nodes));
    etherpool(place, args)?;
    Ok(())
}

fn ensure_volume(place: &Place, plan: &LabPlan) -> anyhow::Result<()> {
    let name = format!("{POOL}/{VOLUME}");
    // After a restart the pool is opened by itself, as soon as enough disks are present.
    wait("the pool to be open", TIMEOUT, || {
        let pools = etherpool_json(place, ["pool", "list", "--json"])?;
        let pool = entry(&pools, "pools", POOL);
        if matches!(pool.and_then(state_of), Some("online" | "degraded")) {
            return Ok(Step::Done);
        }
        let state = pool.and_then(|pool| serde_json::from_value::<PoolState>(pool.clone()).ok());
        let state = state.map_or("not present".to_owned(), |state| state.to_string());
        Ok(Step::Wait(format!("pool {POOL} is {state}")))
    })?;
    let volumes = etherpool_json(place, ["volume", "list", "--json"])?;
    if entry(&volumes, "volumes", VOLUME).is_none() {
        let disks: usize = plan.nodes.iter().map(|node| node.disk_bytes.len()).sum();
        let usual = if disks > 1 { "mirror:2" } else { "raid0" };
        let layout = plan.layout.as_deref().unwrap_or(usual);
        etherpool(place, ["volume", "create", &name, "--size", "100%FREE", "--layout", layout])?;
        etherpool(place, ["volume", "mkfs", &name, "--yes"])?;
        let mount_point = place.mount_point();
        fs::create_dir_all(&mount_point)?;
        etherpool(place, ["volume", "mount", &name, &mount_point.display().to_string()])?;
        etherpool(place, ["volume", "serve", &name, "ftp"])?;
    }
    wait("the file system to be mounted and served", TIMEOUT, || {
        if crate::status::is_served(place) {
            return Ok(Step::Done);
        }
        Ok(Step::Wait(crate::status::not_served(place)))
    })
}

fn wait_for_api(place: &Place) -> anyhow::Result<()> {
    wait("the supervisor to answer", TIMEOUT, || {
        if process::running(place, "supervisor").is_none() {
            bail!("the supervisor died; see {}", place.log_file("supervisor").display());
        }
        Ok(match etherpool_json(place, ["pool", "list", "--json"]) {
            Ok(_) => Step::Done,
            Err(error) => Step::Wait(error.to_string()),
        })
    })
}

fn wait_for_disks(place: &Place, nodes: &[NodePlan]) -> anyhow::Result<()> {
    let wanted = addresses(nodes);
    wait("the nodes' disks to be visible", TIMEOUT, || {
        let disks = etherpool_json(place, ["disk", "list", "--json"])?;
        let text = disks.to_string();
        let present = |disk: &&String| text.contains(&format!("{disk:?}"));
        let missing: Vec<_> = wanted.iter().filter(|disk| !present(disk)).cloned().collect();
        Ok(match missing.is_empty() {
            true => Step::Done,
            false => Step::Wait(format!("not present: {}", missing.join(", "))),
        })
    })
}

fn addresses(nodes: &[NodePlan]) -> Vec<String> {
    nodes
        .iter()
        .flat_map(|node| (0..node.disk_bytes.len()).map(|slot| format!("e{}.{slot}", node.shelf)))
        .collect()
}

/// The entry called `name` in the list that a `--json` command prints.
pub fn entry<'a>(answer: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    let items = answer.as_array().or_else(|| answer.get(list)?.as_array())?;
    items.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(name))
}

/// The word for a state.
pub fn state_of(item: &Value) -> Option<&str> {
    item.get("state")?.as_str()
}

/// Where something is that is waited for.
enum Step {
    Done,
    /// Not yet, and why.
    Wait(String),
}

/// Waits, and says for what and why when it isn't a moment any more, and whenever the reason changes.
fn wait(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Step>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut said = None;
    loop {
        let Step::Wait(why) = look()? else { return Ok(()) };
        let waited = begun.elapsed();
        if waited >= limit {
            bail!(
                "waited {} s for {what}: {why}; `etherpool lab status` and the lab's log folder tell more",
                limit.as_secs()
            );
        }
        if waited >= QUIET && said.as_ref() != Some(&why) {
            eprintln!("waiting for {what} since {} s: {why}", waited.as_secs());
            said = Some(why);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn check_tools() -> anyhow::Result<()> {
    let missing: Vec<_> =
        [("ip", "iproute2"), ("mkfs.ext4", "e2fsprogs"), ("setsid", "util-linux")]
            .into_iter()
            .filter(|(tool, _)| {
                !["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
                    .iter()
                    .any(|dir| std::path::Path::new(dir).join(tool).exists())
            })
            .map(|(_, package)| package)
            .collect();
    if !missing.is_empty() {
        bail!("the lab needs more packages: apt-get install {}", missing.join(" "));
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        bail!("the lab needs /dev/fuse (modprobe fuse)");
    }
    Ok(())
}

fn etherpool_line(place: &Place, rest: &str) -> String {
    format!("etherpool --socket {} {rest}", place.api_socket().display())
}

fn say_what_next(place: &Place, plan: &LabPlan) {
    println!("A cluster of {} nodes runs on this machine.", plan.nodes.len());
    println!("  files     {}", place.mount_point().display());
    println!(
        "  ftp       ftp://127.0.0.1:{}/ (read: anonymous; write: user lab, password lab)",
        plan.ftp_port
    );
    println!("  commands  export ETHERPOOL_SOCKET={}", place.api_socket().display());
    println!();
    println!("Then for example:");
    println!("  etherpool lab status");
    println!("  curl -T FILE --user lab:lab ftp://127.0.0.1:{}/", plan.ftp_port);
    println!("  etherpool lab kill n1; etherpool pool show {POOL}; etherpool lab start n1");
    println!("  etherpool volume verify {POOL}/{VOLUME}");
    println!("  etherpool lab down --wipe");
}
