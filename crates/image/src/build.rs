//! What is in an image, and where.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use block::glob;

use crate::kernel::Kernel;
use crate::modules::{
    ALIASES, BUILT_IN, BUILT_IN_WORDS, DEPENDENCIES, Modules, SOFT_DEPENDENCIES, name_of, only,
};
use crate::programs::Host;
use crate::tree::{Source, Tree};
use crate::{Error, drivers, pack};

/// Where the program is in an image.
pub const PROGRAM: &str = "usr/bin/etherpool";
/// Firmware of this machine; the kernel of the image looks there, too.
const FIRMWARE: &str = "lib/firmware";

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel.
    pub kernel: Kernel,
    /// The program that is PID 1.
    pub program: PathBuf,
    /// Modules beside the usual ones.
    pub modules: Vec<String>,
    /// Patterns with `*` for paths below /lib/firmware.
    pub firmware: Vec<String>,
    /// More programs, by name or path.
    pub with: Vec<String>,
    /// Below which the files of the machine are that the image is made on: `/`.
    pub root: PathBuf,
}

/// What an image has.
pub struct Contents {
    /// All of it.
    pub tree: Tree,
    /// How many drivers there are.
    pub modules: usize,
}

/// Finds all that belongs into an image.
pub fn collect(parts: &Parts) -> Result<Contents, Error> {
    let mut tree = Tree::default();
    skeleton(&mut tree);
    let host = Host::at(&parts.root);
    add_program(&mut tree, &host, &parts.program, PROGRAM)?;
    for name in &parts.with {
        let path = host.program(name)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        add_program(&mut tree, &host, &path, &format!("usr/bin/{name}"))?;
    }
    let modules = add_modules(&mut tree, &parts.kernel, &parts.modules)?;
    for pattern in &parts.firmware {
        add_firmware(&mut tree, &parts.root.join(FIRMWARE), pattern)?;
    }
    Ok(Contents { tree, modules })
}

/// Writes an image's archive, packed; tells of each file that is written.
pub fn write(
    tree: &Tree,
    path: &Path,
    level: i32,
    told: impl FnMut(&str, u64),
) -> Result<(), Error> {
    let failed = |error| Error::file("cannot write", path)(error);
    let file = File::create(path).map_err(failed)?;
    let mut packer = pack::packer(BufWriter::new(file), level).map_err(failed)?;
    tree.write(&mut packer, told)?;
    packer.finish().and_then(|mut out| out.flush()).map_err(failed)
}

/// What programs expect to be there. The kernel opens the console before it starts PID 1.
fn skeleton(tree: &mut Tree) {
    for directory in ["proc", "sys", "run", "root", "etc", "var/lib", "usr/bin", "lib/modules"] {
        tree.directory(directory, 0o755);
    }
    tree.directory("tmp", 0o1777);
    tree.device("dev/console", 0o600, (5, 1));
    tree.device("dev/null", 0o666, (1, 3));
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/bin"), ("usr/sbin", "bin")] {
        tree.link(link, target);
    }
    for (link, target) in [("lib64", "lib"), ("usr/lib", "../lib"), ("var/run", "../run")] {
        tree.link(link, target);
    }
    tree.link("init", PROGRAM);
    // Some modules ask the kernel for others by name, and it asks that program.
    tree.link("usr/bin/modprobe", "etherpool");
    let users = Source::Bytes(
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_vec(),
    );
    let groups = Source::Bytes(b"root:x:0:\nnogroup:x:65534:\n".to_vec());
    for (path, source) in [("etc/passwd", users), ("etc/group", groups)] {
        // Nothing else is there yet.
        let _ = tree.file(path, 0o644, source);
    }
}

/// A program with its libraries, all of which are in one directory.
fn add_program(tree: &mut Tree, host: &Host, program: &Path, at: &str) -> Result<(), Error> {
    let needed = host.needed_by(program)?;
    if let Some((interpreter, _)) = &needed.interpreter {
        check_interpreter(program, interpreter)?;
    }
    let stripped = |path: &Path| Source::Stripped(path.to_owned());
    tree.file(at, 0o755, stripped(program))?;
    let loader = needed.interpreter.iter().map(|(at, path)| {
        let name = at.rsplit('/').next().unwrap_or_default();
        (name, path)
    });
    let libraries = needed.libraries.iter().map(|(name, path)| (name.as_str(), path));
    for (name, path) in loader.chain(libraries) {
        let real = path.canonicalize().map_err(Error::file("cannot open", path))?;
        tree.file(&format!("lib/{name}"), 0o755, stripped(&real))?;
    }
    Ok(())
}

/// The kernel looks for what loads a program where the program says. In an image all of that is in one directory, which has
/// these names.
fn check_interpreter(program: &Path, interpreter: &str) -> Result<(), Error> {
    let directory = interpreter.rsplit_once('/').map_or("", |(directory, _)| directory);
    match ["/lib", "/lib64", "/usr/lib"].contains(&directory) {
        true => Ok(()),
        false => Err(Error::Form {
            path: program.to_owned(),
            what: format!(
                "it is loaded by {interpreter}, which is neither in /lib nor in /lib64, and an image has no other place for it"
            ),
        }),
    }
}

fn add_modules(tree: &mut Tree, kernel: &Kernel, more: &[String]) -> Result<usize, Error> {
    let modules = Modules::read(&kernel.modules)?;
    let chosen = drivers::chosen(&modules, more)?;
    let directory = format!("lib/modules/{}", kernel.version);
    for (_, file) in modules.files().filter(|(name, _)| chosen.contains(*name)) {
        let path = kernel.modules.join(file);
        tree.file(&format!("{directory}/{}", plain(file)), 0o644, Source::Unpacked(path))?;
    }
    for list in [DEPENDENCIES, SOFT_DEPENDENCIES, ALIASES, BUILT_IN, BUILT_IN_WORDS] {
        let path = kernel.modules.join(list);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let source = match list {
            // Texts with zeros between them.
            BUILT_IN_WORDS => Source::Bytes(bytes),
            _ => {
                let text = only(list, &String::from_utf8_lossy(&bytes), &chosen);
                Source::Bytes(
                    if list == DEPENDENCIES { unpacked_paths(&text) } else { text }.into(),
                )
            }
        };
        tree.file(&format!("{directory}/{list}"), 0o644, source)?;
    }
    Ok(chosen.len())
}

/// The path of a module that isn't packed any more.
fn plain(file: &str) -> &str {
    let packed = [".xz", ".zst"].iter().find_map(|end| file.strip_suffix(end));
    packed.unwrap_or(file)
}

fn unpacked_paths(dependencies: &str) -> String {
    let lines = dependencies.lines().map(|line| {
        let (file, needs) = line.split_once(':').unwrap_or((line, ""));
        let needs: String =
            needs.split_ascii_whitespace().map(|file| format!(" {}", plain(file))).collect();
        format!("{}:{needs}\n", plain(file))
    });
    lines.collect()
}

/// Files whose path below the directory of firmware is as a pattern says; links as what they lead to.
fn add_firmware(tree: &mut Tree, directory: &Path, pattern: &str) -> Result<(), Error> {
    let mut found = BTreeSet::new();
    walk(directory, "", FIRMWARE_DEPTH_MAX, &mut |path| {
        // Newer distributions pack them, and the kernel unpacks them.
        if glob::matches(pattern, path) || glob::matches(pattern, plain(path)) {
            found.insert(path.to_owned());
        }
    });
    if found.is_empty() {
        let (directory, pattern) = (directory.to_owned(), pattern.to_owned());
        return Err(Error::NoFirmware { directory, pattern });
    }
    for path in found {
        let source = Source::File(directory.join(&path));
        tree.file(&format!("{FIRMWARE}/{path}"), 0o644, source)?;
    }
    Ok(())
}

const FIRMWARE_DEPTH_MAX: usize = 8;

fn walk(directory: &Path, below: &str, depth: usize, told: &mut dyn FnMut(&str)) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let is_directory = entry.path().is_dir();
        if is_directory && depth > 0 {
            walk(&entry.path(), &path, depth - 1, told);
        } else if !is_directory {
            told(&path);
        }
    }
}

/// Of what a path in an image is part, for people.
pub fn kind_of(path: &str) -> &'static str {
    match path {
        PROGRAM => "etherpool",
        path if path.starts_with(FIRMWARE) => "firmware",
        path if path.starts_with("lib/modules/") && name_of(path).is_some() => "drivers",
        path if path.starts_with("lib/modules/") => "lists of drivers",
        path if path.starts_with("lib/") => "libraries",
        path if path.starts_with("usr/bin/") => "other programs",
        _ => "other files",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cpio::tests::{Entry, read};

    /// A machine with a kernel of a few modules, and this test as the program.
    fn parts(root: &Path) -> Parts {
        let put = |path: &str, bytes: &[u8]| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        let modules = "lib/modules/6.1";
        let disk = zstd::encode_all(&b"sd"[..], 1).unwrap();
        put(&format!("{modules}/kernel/drivers/scsi/sd_mod.ko.zst"), &disk);
        put(&format!("{modules}/kernel/drivers/scsi/scsi_mod.ko"), b"scsi");
        put(&format!("{modules}/kernel/sound/snd.ko"), b"snd");
        let dependencies = "kernel/drivers/scsi/sd_mod.ko.zst: kernel/drivers/scsi/scsi_mod.ko\n\
            kernel/drivers/scsi/scsi_mod.ko:\nkernel/sound/snd.ko:\n";
        put(&format!("{modules}/modules.dep"), dependencies.as_bytes());
        let aliases = "alias scsi:t-0x00* sd_mod\nalias sound snd\n";
        put(&format!("{modules}/modules.alias"), aliases.as_bytes());
        put("boot/vmlinuz-6.1", b"kernel");
        put("lib/firmware/bnx2/a.fw", b"a");
        put("lib/firmware/bnx2/b.fw.xz", b"b");
        put("lib/firmware/other", b"c");
        Parts {
            kernel: Kernel::installed(root, None).unwrap(),
            program: "/proc/self/exe".into(),
            modules: Vec::new(),
            firmware: vec!["bnx2/*.fw".into()],
            with: Vec::new(),
            root: "/".into(),
        }
    }

    fn entries(bytes: &[u8]) -> Vec<Entry> {
        read(&zstd::decode_all(bytes).unwrap())
    }

    #[test]
    fn a_program_that_nothing_would_load_is_refused() {
        for interpreter in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"] {
            check_interpreter(Path::new("p"), interpreter).unwrap();
        }
        for interpreter in ["/nix/store/x/lib/ld-linux-x86-64.so.2", "/lib/x/ld.so", "ld.so", ""] {
            let error = check_interpreter(Path::new("p"), interpreter).unwrap_err();
            assert!(error.to_string().starts_with("p: it is loaded by"), "{error}");
        }
    }

    #[test]
    fn an_image_has_what_it_needs_and_the_same_files_make_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = parts(dir.path());
        let mut tree = collect(&Parts { firmware: Vec::new(), ..parts.clone() }).unwrap().tree;
        add_firmware(&mut tree, &dir.path().join(FIRMWARE), &parts.firmware[0]).unwrap();
        let written = [1, 2].map(|number| {
            let path = dir.path().join(format!("out{number}"));
            write(&tree, &path, 1, |_, _| {}).unwrap();
            std::fs::read(path).unwrap()
        });
        assert_eq!(written[0], written[1]);
        let entries = entries(&written[0]);
        let text = |path: &str| {
            let entry = entries.iter().find(|entry| entry.path == path);
            entry.map(|entry| String::from_utf8_lossy(&entry.contents).into_owned())
        };
        assert_eq!(text("init").unwrap(), PROGRAM);
        assert_eq!(text("lib/modules/6.1/kernel/drivers/scsi/sd_mod.ko").unwrap(), "sd");
        assert_eq!(text("lib/modules/6.1/kernel/sound/snd.ko"), None);
        assert_eq!(text("lib/modules/6.1/modules.alias").unwrap(), "alias scsi:t-0x00* sd_mod\n");
        assert!(
            text("lib/modules/6.1/modules.dep")
                .unwrap()
                .starts_with("kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko\n")
        );
        assert!(
            text("lib/firmware/bnx2/b.fw.xz").is_some() && text("lib/firmware/other").is_none()
        );
        assert!(entries.iter().any(|entry| entry.path.starts_with("lib/libc.so")));
        let console = entries.iter().find(|entry| entry.path == "dev/console").unwrap();
        assert_eq!(console.device, (5, 1));
        parts.modules = vec!["snd".into()];
        parts.firmware = Vec::new();
        assert_eq!(collect(&parts).unwrap().modules, 3);
        parts.with = vec!["surely-not-here".into()];
        assert!(matches!(collect(&parts), Err(Error::NoProgram(_))));
    }

    #[test]
    fn firmware_that_nobody_has_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = add_firmware(&mut Tree::default(), dir.path(), "x*").unwrap_err();
        assert!(matches!(error, Error::NoFirmware { .. }), "{error}");
    }
}
