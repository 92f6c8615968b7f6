package sandbox

import "golang.org/x/sys/unix"

// olderCalls are those that newer architectures do not have.
var olderCalls = []traced{
	{name: "open", nr: unix.SYS_OPEN, places: []place{{dir: atCwd, path: 0}}, open: 2},
	at("creat", unix.SYS_CREAT, place{dir: atCwd, path: 0, kind: Write}),
	at("newfstatat", unix.SYS_NEWFSTATAT, place{dir: 0, path: 1, kind: Stat, flags: 3}),
	at("stat", unix.SYS_STAT, place{dir: atCwd, path: 0, kind: Stat}),
	at("lstat", unix.SYS_LSTAT, place{dir: atCwd, path: 0, kind: Stat, noFollow: true}),
	at("access", unix.SYS_ACCESS, place{dir: atCwd, path: 0, kind: Stat}),
	at("readlink", unix.SYS_READLINK, place{dir: atCwd, path: 0, kind: Readlink, noFollow: true}),
	at("mkdir", unix.SYS_MKDIR, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("mknod", unix.SYS_MKNOD, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("rmdir", unix.SYS_RMDIR, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("unlink", unix.SYS_UNLINK, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("symlink", unix.SYS_SYMLINK, place{dir: atCwd, path: 1, kind: Change, noFollow: true}),
	at("link", unix.SYS_LINK, place{dir: atCwd, path: 0, kind: Read, noFollow: true}, place{dir: atCwd, path: 1, kind: Change, noFollow: true}),
	at("rename", unix.SYS_RENAME, place{dir: atCwd, path: 0, kind: Change, noFollow: true}, place{dir: atCwd, path: 1, kind: Change, noFollow: true}),
	at("chmod", unix.SYS_CHMOD, place{dir: atCwd, path: 0, kind: Change}),
	at("chown", unix.SYS_CHOWN, place{dir: atCwd, path: 0, kind: Change}),
	at("lchown", unix.SYS_LCHOWN, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("utime", unix.SYS_UTIME, place{dir: atCwd, path: 0, kind: Change}),
	at("utimes", unix.SYS_UTIMES, place{dir: atCwd, path: 0, kind: Change}),
	at("futimesat", unix.SYS_FUTIMESAT, place{dir: 0, path: 1, kind: Change}),
}
