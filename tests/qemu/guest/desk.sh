# A machine with a stock kernel and no package of ours, at which somebody sits: it does what the test outside types.
must ip link set eth0 up
must ip address add "$VM_ADDRESS" dev eth0
# Debian loads it with the first mount.
must modprobe ext4
do_what_is_typed
