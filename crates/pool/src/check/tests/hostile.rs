//! Nothing on a disk makes a check panic, hang, or take much memory.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// Images, and where on which structures begin.
type Marked = (Vec<Vec<u8>>, Vec<(usize, usize)>);

/// Images with everything on them: data in place, a log, a metadata log.
fn images() -> &'static Marked {
    static IMAGES: OnceLock<Marked> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let machines = Machines::with(60, 3, 24, Layout::Mirror(2), 256 << 10);
        machines.write(10, 100, 0xa1);
        machines.quiesce();
        (0..6).for_each(|round| machines.write(round * 20, 4, round as u8));
        let images = machines.images();
        // Where structures begin: that is where a change tells.
        let magics: [&[u8]; 8] = [
            b"EPLABEL",
            b"epVOTE",
            b"epCONFRM",
            b"epCHECKP",
            b"epMETLOG",
            b"epSEGMNT",
            b"epLR",
            b"epCS",
        ];
        let mut places = Vec::new();
        for (disk, image) in images.iter().enumerate() {
            for at in (0..image.len()).step_by(512) {
                if magics.iter().any(|magic| image[at..].starts_with(magic)) {
                    places.push((disk, at));
                }
            }
        }
        (images, places)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn flipped_bytes_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..600, any::<u8>()), 1..40),
    ) {
        let (images, places) = images();
        let mut damaged = images.clone();
        for (place, offset, value) in flips {
            let (disk, at) = places[place.index(places.len())];
            let end = damaged[disk].len() - 1;
            damaged[disk][(at + offset).min(end)] = value;
        }
        look(&damaged, true);
    }

    /// With checksums made right again, what is decoded is whatever somebody wrote there on purpose.
    #[test]
    fn forged_structures_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 12_usize..200, any::<u8>()), 1..30),
    ) {
        let (images, places) = images();
        let mut damaged = images.clone();
        for (place, offset, value) in flips {
            let (disk, at) = places[place.index(places.len())];
            damaged[disk][at + offset] = value;
            forge(&mut damaged[disk], at);
        }
        look(&damaged, true);
    }

    #[test]
    fn random_bytes_never_panic(
        head in prop::collection::vec(any::<u8>(), 0..20_000),
        from in 0_usize..(2 << 20),
        short in 0_usize..(4 << 20),
    ) {
        let (images, _) = images();
        let mut damaged = images.clone();
        damaged[0][from..from + head.len()].copy_from_slice(&head);
        let left = damaged[1].len() - short;
        damaged[1].truncate(left);
        damaged[2].clone_from(&head);
        look(&damaged, true);
    }
}

/// Makes a structure's checksum right.
fn forge(image: &mut [u8], at: usize) {
    let starts = |magic: &[u8]| image[at..].starts_with(magic);
    let (crc_at, len) = if starts(b"epCS") {
        (4, 4096)
    } else if starts(b"epLR") {
        let sectors = u16::from_le_bytes([image[at + 10], image[at + 11]]);
        (4, usize::from(sectors) * 512)
    } else if starts(b"epVOTE") {
        (8, 16384)
    } else if starts(b"epMETLOG") {
        let len = u32::from_le_bytes(image[at + 56..at + 60].try_into().unwrap());
        (8, 64_usize.saturating_add(len as usize))
    } else {
        (8, 4096)
    };
    let Some(end) = at.checked_add(len).filter(|end| *end <= image.len()) else { return };
    let structure = &mut image[at..end];
    let Some(field) = structure.get_mut(crc_at..crc_at + 4) else { return };
    field.fill(0);
    let crc = block::crc32c(structure);
    structure[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}
