//! Volumes as AoE disks: there for whom they are exported, for nobody else, and as their clients left
//! them after a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::Command;

use aoe_wire::{MacAddr, SessionVersion, ShelfSlot, Status};
use blackbox::attacker::{Stranger, any_key};
use blackbox::frames::{BROADCAST, Client, ata_request, config_request, header};
use blackbox::{Lab, LabOptions, wait_until};

const VOLUME: &str = "cluster/two";
const CONFIG: u8 = 1;
const READ_EXT: u8 = 0x24;
const IDENTIFY: u8 = 0xec;

/// Tries all that a machine without rights might: searches and questions by name, to all stations
/// and to the supervisor itself.
fn learns_anything(client: &mut Client, supervisor: MacAddr, address: ShelfSlot) -> bool {
    let addresses = [
        address,
        ShelfSlot::new(0xffff, address.slot),
        ShelfSlot::new(address.shelf, 0xff),
        ShelfSlot::new(0xffff, 0xff),
    ];
    let own = client.mac();
    let mut answered = |request: Vec<u8>| match client.ask(&request, 2).unwrap() {
        // Nodes of the lab answer searches, as they should.
        Some(answer) => answer[6..12] == supervisor.0,
        None => false,
    };
    [supervisor, BROADCAST].into_iter().any(|to| {
        addresses.iter().enumerate().any(|(at, to_address)| {
            let tag = |n: usize| 0x2000_0000 + (at * 16 + n) as u32 + u32::from(to.0[0]) * 256;
            answered(config_request(header(to, own, *to_address, CONFIG, tag(0))))
                || answered(ata_request(header(to, own, *to_address, 0, tag(1)), READ_EXT, 1, 0))
                || answered(ata_request(header(to, own, *to_address, 0, tag(2)), IDENTIFY, 1, 0))
        })
    })
}

#[test]
fn a_volume_is_there_for_its_clients_and_as_they_left_it() {
    let lab = Lab::up(&LabOptions {
        nodes: 2,
        disks: 1,
        size: "512M",
        bare: true,
        ..LabOptions::default()
    });
    lab.wait_for_disks(2);
    // A witness of the supervisor would answer everybody.
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "--no-witness", "--yes"]);
    lab.cli(&["volume", "create", VOLUME, "--size", "16M", "--layout", "mirror:2"]);
    let cable = lab.plug_in("cl0");
    // As which it may, by the list.
    let netns = cable.netns.as_deref().unwrap();
    let set = ["-n", netns, "link", "set", "cl0", "address", "02:fe:00:00:00:01"];
    assert!(Command::new("ip").args(set).status().unwrap().success());
    let friend = MacAddr([2, 0xfe, 0, 0, 0, 1]);
    let stranger = MacAddr([2, 0xfe, 0, 0, 0, 2]);

    // Address and interface are the supervisor's choice.
    let export = |mac: MacAddr| {
        let answer = lab.json(&["volume", "export", VOLUME, "aoe", "--allow", &mac.to_string()]);
        answer["address"].as_str().unwrap().parse::<ShelfSlot>().unwrap()
    };
    let address = export(friend);
    println!("exported as {address}");
    let connect = |mac: MacAddr| {
        let mut found = None;
        wait_until("the volume answers its client", || {
            found = Client::connect_as(&cable, mac, address).ok();
            found.is_some()
        });
        found.unwrap()
    };
    let mut client = connect(friend);
    let supervisor = client.target();
    client.write(7, &[0x5a; 4096]).unwrap();
    assert_eq!(client.read(7, 8).unwrap(), [0x5a; 4096]);
    client.set_mac(&cable, stranger).unwrap();
    assert!(!learns_anything(&mut client, supervisor, address), "a stranger was answered");
    client.set_mac(&cable, friend).unwrap();
    assert!(learns_anything(&mut client, supervisor, address), "the test asks nothing");

    // No list is enough for a session, which is for supervisors that this one names.
    let opens = |own: Option<&seal::KeyPair>| {
        let newest = SessionVersion::NEWEST;
        Stranger::open(&cable, &address.to_string(), own, newest).map(drop)
    };
    assert_eq!(opens(Some(&any_key())), Err(Some(Status::Refused)));
    assert_eq!(opens(None), Err(Some(Status::Refused)));

    // The supervisor is asked about its exports as any target.
    let run_dir = lab.dir().join("supervisor/run/target-volumes");
    let asked = |what: &str| {
        lab.json(&["target", what, "--socket", run_dir.to_str().unwrap()])[0]["exports"][0].clone()
    };
    assert_eq!(
        (&asked("status")["path"], &asked("status")["state"]),
        (&VOLUME.into(), &"online".into())
    );
    let stats = asked("stats");
    assert!(stats["requests"]["write"].as_u64().unwrap() >= 1, "{stats}");
    let denied = stats["dropped"]["denied"].as_u64().unwrap();
    assert!(denied > 0, "{stats}");

    // What the client sets is in the pool when it hears so.
    let string = b"database of the accounts";
    let len = (string.len() as u16).to_be_bytes();
    let mut request = header(supervisor, friend, address, CONFIG, client.tag());
    request.extend([&[0, 0, 0, 0, 0, 0x14], &len[..], string].concat());
    client.ask(&request, 10).unwrap().expect("an answer");
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    let mut client = connect(friend);
    assert_eq!(client.discover().unwrap().config, string);
    assert_eq!(client.read(7, 8).unwrap(), [0x5a; 4096]);

    // Its name is nothing to its clients: address, identity and what they left stay.
    // The words of serial number, firmware and model, behind the headers.
    let identify = |client: &mut Client| {
        client.ata_reply(IDENTIFY, 1, 0, &[]).unwrap()[36 + 20..36 + 94].to_vec()
    };
    let identity = identify(&mut client);
    assert!(identity.iter().any(|byte| *byte != 0 && *byte != b' '));
    lab.cli(&["volume", "rename", VOLUME, "cluster/second"]);
    let (code, text) = lab.said(&["volume", "show", VOLUME]);
    assert_eq!(code, 3, "{text}");
    let mut client = connect(friend);
    assert_eq!(identify(&mut client), identity);
    assert_eq!(client.discover().unwrap().config, string);
    assert_eq!(client.read(7, 8).unwrap(), [0x5a; 4096]);
    client.write(7, &[0xa5; 4096]).unwrap();
    let (code, text) = lab.said(&["volume", "rename", "cluster/second", "other/two"]);
    assert!(code == 4 && text.contains("a volume stays in its pool"), "{text}");
    lab.cli(&["volume", "attach", "cluster/second"]);
    let (code, text) = lab.said(&["volume", "rename", "cluster/second", "two"]);
    assert!(code == 8 && text.contains("volume detach cluster/second"), "{text}");
    lab.cli(&["volume", "detach", "cluster/second"]);
    lab.cli(&["volume", "rename", "cluster/second", "two"]);
    let mut client = connect(friend);
    assert_eq!(client.read(7, 8).unwrap(), [0xa5; 4096]);
    client.write(7, &[0x5a; 4096]).unwrap();

    // It becomes smaller under its client, who sees that. What is on it nobody here knows.
    assert_eq!(client.sectors().unwrap(), (16 << 20) / 512);
    let (code, text) = lab.said(&["volume", "reduce", VOLUME, "--size", "8M", "--yes"]);
    assert!(code == 4 && text.contains("isn't known"), "{code}: {text}");
    let (code, text) = lab.said(&["volume", "reduce", VOLUME, "--size", "8M", "--resizefs"]);
    assert!(code == 8 && text.contains("have the client make its file system"), "{code}: {text}");
    lab.cli(&["volume", "reduce", VOLUME, "--size", "8M", "--force", "--yes"]);
    wait_until("the client sees the new size", || {
        client.sectors().is_ok_and(|sectors| sectors == (8 << 20) / 512)
    });
    assert_eq!(client.read(7, 8).unwrap(), [0x5a; 4096]);
    assert!(client.read((8 << 20) / 512, 8).is_err());

    // For another client, at the same address; then for nobody.
    assert_eq!(export(stranger), address);
    let mut other = connect(stranger);
    assert_eq!(other.read(7, 8).unwrap(), [0x5a; 4096]);
    assert!(Client::connect_as(&cable, friend, address).is_err());
    lab.cli(&["volume", "unexport", VOLUME]);
    wait_until("nobody is answered", || Client::connect_as(&cable, stranger, address).is_err());
    // What was left with it has gone with it.
    assert_eq!(export(friend), address);
    assert_eq!(connect(friend).discover().unwrap().config, b"");
}
