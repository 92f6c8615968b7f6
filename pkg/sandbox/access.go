package sandbox

// AccessKind says what a process does with a name.
type AccessKind uint8

// The kinds of accesses. An access is reported whether it succeeds or not: that a name is not there is what many programs
// ask for.
const (
	// Unknown: an access that was not seen as it is (the process's memory could not be read, or it runs a program inside a
	// root of its own). A trace with such an entry proves nothing.
	Unknown  AccessKind = iota
	Stat                // looks at it or at its attributes, or steps into it
	Read                // opens it for reading; of a folder: may list it
	List                // opens it as a folder
	Readlink            // reads where the link leads
	Exec                // runs it, also as the interpreter of a script or of a program
	Write               // creates it or opens it for writing
	Change              // renames, links, removes or makes it, or changes its attributes
)

var accessNames = [...]string{"unknown", "stat", "read", "list", "readlink", "exec", "write", "change"}

func (k AccessKind) String() string {
	if int(k) < len(accessNames) {
		return accessNames[k]
	}
	return accessNames[Unknown]
}

// Access is one look of a process in the sandbox at a path, reported just before it happens.
type Access struct {
	Kind AccessKind
	// Path is absolute as the process sees it, with "." and ".." taken away as text: symbolic links are as they were
	// named. Where a ".." follows a link that is another file; Asked is the path before that.
	Path     string
	Asked    string
	NoFollow bool // a link at the end of the path is meant itself
	// Root is the folder that the process made its root (chroot(2)), "" for the usual one. Path begins with it; but links
	// with an absolute target lead elsewhere than Path alone says.
	Root    string
	Process int // the thread, by its number on the host
}
