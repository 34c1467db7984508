//! Valid requests of every kind, to be sent as they are or mutated, laid out by hand from the
//! protocol's tables.

/// Clients.
pub const CLIENTS: [[u8; 6]; 4] = [
    [0x52, 0x54, 0, 0, 0, 1],
    [0x52, 0x54, 0, 0, 0, 2],
    [0x52, 0x54, 0, 0, 0, 3],
    [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee],
];
/// The target's port.
pub const TARGET: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// The 24 bytes that all begin with.
pub fn header(source: [u8; 6], shelf: u16, slot: u8, command: u8, tag: u32) -> Vec<u8> {
    let mut frame = TARGET.to_vec();
    frame.extend(source);
    frame.extend([0x88, 0xa2, 0x10, 0]);
    frame.extend(shelf.to_be_bytes());
    frame.extend([slot, command]);
    frame.extend(tag.to_be_bytes());
    frame
}

/// An ATA command; `flags` are the AFlags.
pub fn ata(mut frame: Vec<u8>, flags: u8, feature: u8, count: u8, code: u8, lba: u64) -> Vec<u8> {
    frame.extend([flags, feature, count, code]);
    frame.extend(&lba.to_le_bytes()[..6]);
    frame.extend([0, 0]);
    frame
}

/// A config request.
pub fn config(mut frame: Vec<u8>, command: u8, len: u16, string: &[u8]) -> Vec<u8> {
    frame.extend([0, 0, 0, 0, 0, 0x10 | command]);
    frame.extend(len.to_be_bytes());
    frame.extend(string);
    frame
}

/// A mask request; each directive is a command and an address.
pub fn mask(mut frame: Vec<u8>, command: u8, count: u8, directives: &[(u8, [u8; 6])]) -> Vec<u8> {
    frame.extend([0, command, 0, count]);
    for (directive, mac) in directives {
        frame.extend([0, *directive]);
        frame.extend(mac);
    }
    frame
}

/// A reserve request.
pub fn reserve(mut frame: Vec<u8>, command: u8, count: u8, macs: &[[u8; 6]]) -> Vec<u8> {
    frame.extend([command, count]);
    macs.iter().for_each(|mac| frame.extend(mac));
    frame
}

/// Sequences that killed vblade 25, or would kill who believes what a frame says of itself.
pub fn killers() -> Vec<(String, Vec<Vec<u8>>)> {
    let head = |command| header(CLIENTS[0], 1, 1, command, 7);
    let [one, two, ..] = CLIENTS;
    let both = [(1, one), (1, two)];
    let mut list: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("mask edit of two directives", vec![mask(head(2), 1, 2, &both), mask(head(2), 0, 0, &[])]),
        ("mask edit, 255 promised and two there", vec![mask(head(2), 1, 255, &both)]),
        ("mask edit, 255 promised and none there", vec![mask(head(2), 1, 255, &[])]),
        ("mask edit with a directive that isn't", vec![mask(head(2), 1, 2, &[(1, one), (9, two)])]),
        ("reservation, 255 promised", vec![reserve(head(3), 1, 255, &[one])]),
        ("config string, 65535 promised", vec![config(head(1), 4, 0xffff, b"x")]),
        ("config string, 1024 promised", vec![config(head(1), 4, 1024, b"x")]),
        ("write, 255 sectors promised", vec![ata(head(0), 0x41, 0, 255, 0x34, 0)]),
        ("read of 255 sectors", vec![ata(head(0), 0x40, 0, 255, 0x24, 0)]),
        ("read at the end of numbers", vec![ata(head(0), 0x40, 0, 1, 0x24, u64::MAX)]),
        ("only a header", vec![head(0), head(1), head(2), head(3), head(0xf0), head(0x77)]),
    ];
    let full = (0..=255u8).map(|n| (1, [2, 0, 0, 1, n, 1])).collect::<Vec<_>>();
    let mut filling: Vec<Vec<u8>> = full
        .chunks(64)
        .map(|part| mask(header(one, 1, 1, 2, 1), 1, part.len() as u8, part))
        .collect();
    // The one who fills the list must stay on it.
    filling.insert(0, mask(head(2), 1, 1, &[(1, one)]));
    list.push(("a mask list that is full", filling));
    let short = (0..60).map(|len| ata(head(0), 0x41, 0, 1, 0x34, 3)[..len.min(36)].to_vec());
    list.push(("every length up to a header", short.collect()));
    list.into_iter().map(|(name, frames)| (name.to_owned(), frames)).collect()
}
