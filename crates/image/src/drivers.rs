//! Which drivers a node has: whatever the kernel's package has for disks and Ethernet, so that an image fits every machine.

use std::collections::BTreeSet;

use crate::Error;
use crate::modules::Modules;

/// Where such drivers are, below the directory of the kernel's modules. What is needed beside them (buses, libraries) is
/// found by what they depend on.
const DIRECTORIES: [&str; 30] = [
    // Disks, and what they are connected by.
    "kernel/drivers/ata/",
    "kernel/drivers/scsi/",
    "kernel/drivers/message/",
    "kernel/drivers/nvme/host/",
    "kernel/drivers/md/",
    "kernel/drivers/mmc/",
    "kernel/drivers/ufs/",
    "kernel/drivers/usb/host/",
    "kernel/drivers/usb/storage/",
    "kernel/drivers/phy/",
    // Disks behind them are seen only with these.
    "kernel/drivers/pci/controller/",
    "kernel/drivers/virtio/",
    "kernel/drivers/hv/",
    "kernel/drivers/xen/",
    // Ethernet.
    "kernel/drivers/net/ethernet/",
    "kernel/drivers/net/fjes/",
    "kernel/drivers/net/hyperv/",
    "kernel/drivers/net/mdio/",
    "kernel/drivers/net/pcs/",
    "kernel/drivers/net/phy/",
    "kernel/drivers/net/usb/",
    "kernel/drivers/net/vmxnet3/",
    "kernel/drivers/hid/usbhid/",
    // A machine that hangs starts anew; keys are sealed, and random.
    "kernel/drivers/watchdog/",
    "kernel/drivers/char/tpm/",
    "kernel/drivers/char/hw_random/",
    // Memory that keeps its contents is a disk, too.
    "kernel/drivers/nvdimm/",
    "kernel/drivers/acpi/nfit/",
    "kernel/lib/raid6/",
    // Frames.
    "kernel/net/packet/",
];
/// More, one by one.
const NAMES: [&str; 20] = [
    "virtio_blk",
    "xen_blkfront",
    "virtio_net",
    "xen_netfront",
    "net_failover",
    "virtio_rng",
    "af_packet",
    "loop",
    // The power button, and the keyboard that people restart machines by.
    "button",
    "evdev",
    "hid_generic",
    // Disks of a kind of their own; and what Intel's watchdogs are seen by.
    "mtip32xx",
    "firewire_ohci",
    "firewire_sbp2",
    "lpc_ich",
    "i2c_i801",
    // Found by name, not by what depends on them.
    "crc32c_intel",
    "crc32c_generic",
    "crct10dif_pclmul",
    "crct10dif_generic",
];
/// Not these: they make what isn't there, or are disks of others, or telephones.
const LEFT_OUT: [&str; 16] = [
    "scsi_debug",
    "iscsi_tcp",
    "nvme_tcp",
    "nvme_fc",
    "nvme_rdma",
    "mac80211_hwsim",
    "cdc_mbim",
    "cdc_phonet",
    "cx82310_eth",
    "hso",
    "huawei_cdc_ncm",
    "ipheth",
    "kalmia",
    "lg_vl600",
    "qmi_wwan",
    "sierra_net",
];

/// The names of all drivers that a node has, with all that goes with them; and `more`, which people named.
pub fn chosen(modules: &Modules, more: &[String]) -> Result<BTreeSet<String>, Error> {
    let in_directories = modules.files().filter(|(name, file)| {
        let is_there = DIRECTORIES.iter().any(|directory| file.starts_with(directory));
        is_there && !LEFT_OUT.contains(name)
    });
    let mut names: Vec<&str> = in_directories.map(|(name, _)| name).collect();
    names.extend(NAMES);
    for wanted in more {
        let meant = modules.meant_by(wanted);
        if meant.is_empty() && !modules.is_built_in(wanted) {
            return Err(Error::NoModule(wanted.clone()));
        }
        names.extend(meant);
    }
    Ok(modules.closed(names))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_ethernet_are_chosen_and_what_people_name() {
        let dependencies = "kernel/drivers/scsi/sd_mod.ko: kernel/block/t10-pi.ko kernel/lib/crc.ko\n\
            kernel/drivers/scsi/scsi_debug.ko:\nkernel/block/t10-pi.ko: kernel/lib/crc.ko\nkernel/lib/crc.ko:\n\
            kernel/drivers/net/virtio_net.ko.xz:\nkernel/drivers/net/bonding/bonding.ko: kernel/net/tls/tls.ko\n\
            kernel/net/tls/tls.ko:\nkernel/sound/core/snd.ko:\nkernel/drivers/net/ethernet/intel/e1000/e1000.ko:\n";
        let dependencies = &format!(
            "{dependencies}kernel/drivers/mfd/lpc_ich.ko:\nkernel/drivers/i2c/busses/i2c-i801.ko:\n\
             kernel/drivers/block/mtip32xx/mtip32xx.ko:\n\
             kernel/drivers/acpi/nfit/nfit.ko:\nkernel/drivers/net/usb/r8153_ecm.ko:\n\
             kernel/drivers/net/usb/cdc-phonet.ko:\n\
             kernel/drivers/char/tpm/tpm_crb.ko: kernel/drivers/char/tpm/tpm.ko kernel/lib/asn1.ko\n\
             kernel/drivers/char/tpm/tpm.ko: kernel/lib/asn1.ko\nkernel/lib/asn1.ko:\n"
        );
        let modules = Modules::parse(dependencies, "", "", "kernel/net/8021q.ko\n");
        let names = |more: &[&str]| {
            let more: Vec<String> = more.iter().map(|name| (*name).to_owned()).collect();
            chosen(&modules, &more).map(|names| names.into_iter().collect::<Vec<_>>())
        };
        let disks = ["crc", "mtip32xx", "nfit", "sd_mod", "t10_pi"];
        let others =
            ["asn1", "e1000", "i2c_i801", "lpc_ich", "r8153_ecm", "tpm", "tpm_crb", "virtio_net"];
        let mut always = [&disks[..], &others].concat();
        always.sort_unstable();
        assert_eq!(names(&[]).unwrap(), always);
        assert_eq!(names(&["bonding", "8021q"]).unwrap().len(), always.len() + 2);
        let error = names(&["zfs"]).unwrap_err();
        assert_eq!(error.to_string(), "this kernel has no module zfs");
    }
}
