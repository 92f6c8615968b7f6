package sandbox

import (
	"golang.org/x/sys/unix"
)

const atCwd = -1 // instead of the index of a folder's descriptor: the name is relative to the working folder

// place is where a system call has a name.
type place struct {
	dir, path int // indexes of the arguments
	kind      AccessKind
	flags     int  // index of AT_ flags; 0: none
	noFollow  bool // a link at the end is always meant itself
}

// traced is a system call that looks at files by name.
type traced struct {
	name   string
	nr     uintptr
	places []place
	// open: index of the O_ flags plus one; how2: they are behind a pointer (openat2)
	open int
	how2 bool
	root bool // changes the root
	addr bool // the name is in a socket's address
}

func at(name string, nr uintptr, places ...place) traced {
	return traced{name: name, nr: nr, places: places}
}

// everywhere are the calls that all architectures have; legacy ones are in olderCalls.
var everywhere = []traced{
	{name: "openat", nr: unix.SYS_OPENAT, places: []place{{dir: 0, path: 1}}, open: 3},
	{name: "openat2", nr: unix.SYS_OPENAT2, places: []place{{dir: 0, path: 1}}, open: 3, how2: true},
	{name: "chroot", nr: unix.SYS_CHROOT, places: []place{{dir: atCwd, path: 0, kind: Stat}}, root: true},
	{name: "bind", nr: unix.SYS_BIND, places: []place{{dir: atCwd, path: 1, kind: Write}}, addr: true},
	{name: "connect", nr: unix.SYS_CONNECT, places: []place{{dir: atCwd, path: 1, kind: Stat}}, addr: true},
	at("execve", unix.SYS_EXECVE, place{dir: atCwd, path: 0, kind: Exec}),
	at("execveat", unix.SYS_EXECVEAT, place{dir: 0, path: 1, kind: Exec, flags: 4}),
	at("statx", unix.SYS_STATX, place{dir: 0, path: 1, kind: Stat, flags: 2}),
	at("faccessat", unix.SYS_FACCESSAT, place{dir: 0, path: 1, kind: Stat}),
	at("faccessat2", unix.SYS_FACCESSAT2, place{dir: 0, path: 1, kind: Stat, flags: 3}),
	at("statfs", unix.SYS_STATFS, place{dir: atCwd, path: 0, kind: Stat}),
	at("chdir", unix.SYS_CHDIR, place{dir: atCwd, path: 0, kind: Stat}),
	at("readlinkat", unix.SYS_READLINKAT, place{dir: 0, path: 1, kind: Readlink, noFollow: true}),
	at("getxattr", unix.SYS_GETXATTR, place{dir: atCwd, path: 0, kind: Stat}),
	at("lgetxattr", unix.SYS_LGETXATTR, place{dir: atCwd, path: 0, kind: Stat, noFollow: true}),
	at("listxattr", unix.SYS_LISTXATTR, place{dir: atCwd, path: 0, kind: Stat}),
	at("llistxattr", unix.SYS_LLISTXATTR, place{dir: atCwd, path: 0, kind: Stat, noFollow: true}),
	at("setxattr", unix.SYS_SETXATTR, place{dir: atCwd, path: 0, kind: Change}),
	at("lsetxattr", unix.SYS_LSETXATTR, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("removexattr", unix.SYS_REMOVEXATTR, place{dir: atCwd, path: 0, kind: Change}),
	at("lremovexattr", unix.SYS_LREMOVEXATTR, place{dir: atCwd, path: 0, kind: Change, noFollow: true}),
	at("inotify_add_watch", unix.SYS_INOTIFY_ADD_WATCH, place{dir: atCwd, path: 1, kind: Stat}),
	at("truncate", unix.SYS_TRUNCATE, place{dir: atCwd, path: 0, kind: Write}),
	at("mkdirat", unix.SYS_MKDIRAT, place{dir: 0, path: 1, kind: Change, noFollow: true}),
	at("mknodat", unix.SYS_MKNODAT, place{dir: 0, path: 1, kind: Change, noFollow: true}),
	at("unlinkat", unix.SYS_UNLINKAT, place{dir: 0, path: 1, kind: Change, noFollow: true}),
	at("symlinkat", unix.SYS_SYMLINKAT, place{dir: 1, path: 2, kind: Change, noFollow: true}),
	at("linkat", unix.SYS_LINKAT, place{dir: 0, path: 1, kind: Read, flags: 4, noFollow: true}, place{dir: 2, path: 3, kind: Change, noFollow: true}),
	at("renameat2", unix.SYS_RENAMEAT2, place{dir: 0, path: 1, kind: Change, noFollow: true}, place{dir: 2, path: 3, kind: Change, noFollow: true}),
	at("renameat", unix.SYS_RENAMEAT, place{dir: 0, path: 1, kind: Change, noFollow: true}, place{dir: 2, path: 3, kind: Change, noFollow: true}),
	at("fchmodat", unix.SYS_FCHMODAT, place{dir: 0, path: 1, kind: Change}),
	at("fchownat", unix.SYS_FCHOWNAT, place{dir: 0, path: 1, kind: Change, flags: 4}),
	at("utimensat", unix.SYS_UTIMENSAT, place{dir: 0, path: 1, kind: Change, flags: 3}),
}

// tracedCalls gives the calls by number.
func tracedCalls() map[int32]traced {
	calls := map[int32]traced{}
	for _, list := range [][]traced{everywhere, olderCalls} {
		for _, c := range list {
			calls[int32(c.nr)] = c
		}
	}
	return calls
}

func tracedNames() []string {
	var names []string
	for _, list := range [][]traced{everywhere, olderCalls} {
		for _, c := range list {
			names = append(names, c.name)
		}
	}
	return names
}

// follows tells whether a link at the end of the name is followed.
func (p place) follows(args [6]uint64) bool {
	if p.flags == 0 {
		return !p.noFollow
	}
	if p.noFollow {
		return args[p.flags]&unix.AT_SYMLINK_FOLLOW != 0
	}
	return args[p.flags]&unix.AT_SYMLINK_NOFOLLOW == 0
}

// openKinds are what an open with these flags does to its file.
func openKinds(flags uint64) []AccessKind {
	switch {
	case flags&unix.O_PATH != 0:
		return []AccessKind{Stat}
	case flags&unix.O_TMPFILE == unix.O_TMPFILE:
		return []AccessKind{Change}
	case flags&unix.O_ACCMODE == unix.O_RDONLY && flags&(unix.O_CREAT|unix.O_TRUNC) == 0:
		if flags&unix.O_DIRECTORY != 0 {
			return []AccessKind{List}
		}
		return []AccessKind{Read}
	case flags&(unix.O_TRUNC|unix.O_EXCL) != 0:
		return []AccessKind{Write}
	}
	return []AccessKind{Read, Write} // what was there before stays, or is read
}
