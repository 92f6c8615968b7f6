package sandbox

import "golang.org/x/sys/unix"

// olderCalls are those whose names differ between architectures.
var olderCalls = []traced{
	at("newfstatat", unix.SYS_FSTATAT, place{dir: 0, path: 1, kind: Stat, flags: 3}),
}
