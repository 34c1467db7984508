//! `etherpool boot image build`: makes the image that nodes boot, of this machine's kernel and this program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use block::size::Human;
use clap::{Args, Subcommand};
use client::News;
use control::exit::Exit;
use image::build::{Parts, collect, kind_of, write};
use image::kept::{About, DEFAULT_NAME, INITRAMFS, KERNEL, Kept, Unfinished};
use image::kernel::Kernel;
use image::pack;
use pool::Progress;
use serde::Serialize;

use super::boot_verify::VerifyArgs;
use super::progress::ProgressDisplay;
use super::{Failure, output};
use crate::boot::state::DIRECTORY;

/// What an image is to be at most, kernel and initramfs together: what slow firmware loads in bearable time.
const IMAGE_BYTES_MAX: u64 = 60 << 20;

/// The image that nodes boot
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make it, of a kernel of this machine, its drivers for disks and Ethernet, and this program
    Build(Box<BuildArgs>),
    /// Boot it in QEMU, with empty disks and without a network, and see that its node runs
    Verify(VerifyArgs),
}

/// Arguments of `boot image build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Version of an installed kernel; the newest without
    #[arg(long, value_name = "VERSION", conflicts_with = "kernel_image")]
    kernel: Option<String>,

    /// A kernel that isn't installed: its file, as firmware starts it (bzImage)
    #[arg(long, value_name = "FILE", requires = "modules_dir")]
    kernel_image: Option<PathBuf>,

    /// Its directory of modules, with modules.dep; it has the name of its version
    #[arg(long, value_name = "DIR", requires = "kernel_image")]
    modules_dir: Option<PathBuf>,

    /// More modules than those for disks and Ethernet, with what they need
    #[arg(long, value_name = "MODULE", value_delimiter = ',')]
    modules: Vec<String>,

    /// Firmware of this machine's /lib/firmware that drivers need: paths below it, with *
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    firmware: Vec<String>,

    /// More programs of this machine, with their libraries: smartctl, mdadm, sh for commands of nodes' configurations
    #[arg(long, value_name = "PROGRAM", value_delimiter = ',')]
    with: Vec<String>,

    /// The etherpool that nodes run; this one without
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,

    /// What the image is called
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,

    /// Where the boot server keeps what it serves
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    state_dir: PathBuf,

    /// How hard it is packed, from 1 to 19
    #[arg(long, value_name = "LEVEL", default_value_t = pack::LEVEL, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
}

/// An image that was made.
#[derive(Debug, Serialize)]
struct Built {
    directory: PathBuf,
    #[serde(flatten)]
    about: About,
    modules: usize,
    parts: BTreeMap<&'static str, Part>,
}

/// What of an image is of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Part {
    files: u64,
    bytes: u64,
}

/// Runs it.
pub fn build(args: &BuildArgs, json: bool) -> Result<Exit, Failure> {
    let kernel = kernel_of(args)?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(anyhow::Error::from)?,
    };
    let parts = Parts {
        kernel: kernel.clone(),
        program,
        modules: args.modules.clone(),
        firmware: args.firmware.clone(),
        with: args.with.clone(),
        root: "/".into(),
    };
    let contents = collect(&parts).map_err(told)?;
    let unfinished = Unfinished::begin(&args.state_dir, &args.name).map_err(told)?;
    std::fs::copy(&kernel.image, unfinished.path(KERNEL)).map_err(|error| {
        anyhow::anyhow!("cannot copy the kernel {}: {error}", kernel.image.display())
    })?;
    let total_bytes = contents.tree.size_bytes();
    let mut display = ProgressDisplay::new("packing", json);
    let mut kinds: BTreeMap<&'static str, Part> = BTreeMap::new();
    let mut done_bytes = 0;
    write(&contents.tree, &unfinished.path(INITRAMFS), args.level, |path, size| {
        let part = kinds.entry(kind_of(path)).or_default();
        part.files += 1;
        part.bytes += size;
        done_bytes += size;
        let total_bytes = total_bytes.max(done_bytes);
        display.update(&News::Progress(Progress { done_bytes, total_bytes }));
    })
    .map_err(told)?;
    drop(display);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let about = unfinished.finish(kernel.version, version, now).map_err(told)?;
    let directory = Kept::of(&args.state_dir, &args.name).map_err(told)?.directory().to_owned();
    let built = Built { directory, about, modules: contents.modules, parts: kinds };
    output::show(json, &built, || describe(&built))?;
    Ok(Exit::Ok)
}

fn kernel_of(args: &BuildArgs) -> Result<Kernel, Failure> {
    match (&args.kernel_image, &args.modules_dir) {
        (Some(image), Some(modules)) => Kernel::of_files(image, modules).map_err(told),
        _ => Kernel::installed(Path::new("/"), args.kernel.as_deref()).map_err(told),
    }
}

/// What can't be done, with what to do.
pub fn told(error: image::Error) -> Failure {
    use image::Error;
    let message = error.to_string();
    match error {
        Error::NoKernel { version: None } => Failure::not_found(
            message,
            "install a kernel of the distribution (Debian: apt install linux-image-amd64), or name files of one (--kernel-image, --modules-dir)",
        ),
        Error::NoKernel { version: Some(_) } => Failure::not_found(
            message,
            "name one that is installed (ls /boot), or files of one (--kernel-image, --modules-dir)",
        ),
        Error::NoModules(_) => Failure::not_found(
            message,
            "install the kernel's package whole, or run depmod for that version",
        ),
        Error::NoModule(_) => Failure::not_found(
            message,
            "leave it out of --modules, or name a kernel that has it (--kernel)",
        ),
        Error::NoProgram(_) => Failure::not_found(
            message,
            "install the package that has it, or leave it out of --with",
        ),
        Error::NoFirmware { .. } => Failure::not_found(
            message,
            "install the package of that firmware, or leave it out of --firmware",
        ),
        Error::NoLibrary { .. } => Failure::not_found(
            message,
            "install the package of that library here; the image takes it along",
        ),
        Error::Name(_) => Failure::usage(message),
        Error::File { .. } | Error::Form { .. } | Error::Twice { .. } => {
            anyhow::Error::from(error).into()
        }
    }
}

fn describe(built: &Built) -> String {
    let mut table = output::table(&["PART", "FILES", "SIZE"]);
    for (kind, part) in &built.parts {
        let files = part.files.to_string();
        table.add_row(vec![(*kind).to_owned(), files, Human(part.bytes).to_string()]);
    }
    let about = &built.about;
    let whole = about.vmlinuz_bytes + about.initrd_bytes;
    let mut text = output::lines(&table);
    text.push_str(&format!(
        "{}: kernel {} {}, initramfs {} packed, together {}\n",
        built.directory.display(),
        about.kernel,
        Human(about.vmlinuz_bytes),
        Human(about.initrd_bytes),
        Human(whole),
    ));
    if whole > IMAGE_BYTES_MAX {
        text.push_str(&format!(
            "It is larger than {}: slow firmware takes long for it.\n",
            Human(IMAGE_BYTES_MAX)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_what_to_do() {
        let failure = told(image::Error::NoKernel { version: None });
        assert_eq!(failure.exit, Exit::NotFound);
        let remedy = failure.error.remedy.unwrap_or_default();
        assert!(remedy.contains("linux-image-amd64"), "{remedy}");
    }

    #[test]
    fn a_large_image_is_told() {
        let built = |initrd_bytes| Built {
            directory: "/b/images/node".into(),
            about: About {
                version: 1,
                kernel: "6.1".into(),
                built_at_seconds: 0,
                program_version: "0".into(),
                vmlinuz_bytes: 8 << 20,
                initrd_bytes,
                vmlinuz_sha256: String::new(),
                initrd_sha256: String::new(),
            },
            modules: 3,
            parts: BTreeMap::from([("drivers", Part { files: 3, bytes: 4096 })]),
        };
        let small = describe(&built(40 << 20));
        assert!(small.contains("drivers") && small.contains("together 48"), "{small}");
        assert!(!small.contains("larger"));
        assert!(describe(&built(60 << 20)).contains("larger"));
    }
}
