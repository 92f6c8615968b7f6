// Package disk reads and changes disk images that nobody trusts.
//
// The header is read in pure Go before anything opens the file (Check), the partition table is read here because
// Kiln's hosts need no partition support in the kernel (Partitions), conversions go through qemu-img with explicit
// formats (Convert), and file systems are mounted in a mount namespace of our own that ends with the process
// (Session). Nothing here leaves a mount, a loop device or half a file behind, not even after a kill -9.
package disk
