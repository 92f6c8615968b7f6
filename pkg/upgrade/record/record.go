// Package record keeps what the package manager did to one image, and does the same to other images for which it can be
// proven that the package manager would do the same.
//
// The proof is by inputs. A record holds how every name was before that a process looked at, read or listed while the
// packages were upgraded (the sandbox's trace), how every name was that changed, and how it is afterwards. It is used
// only where all of that is equal. Names of which every image has its own version (dpkg's status, the loader's cache,
// debconf's answers, users) have rules of their own, each next to its reason in rules.go. What depends on the rest of an
// image, such as the loader's cache or the index of manuals, is never copied: triggers are left pending, and dpkg of each
// image runs them.
package record

import (
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// Record is what the changes of a share did to one image, and what that depended on.
type Record struct {
	Share    []upgrade.PackageRef `json:"share"`
	Entries  []Entry              `json:"entries"` // sorted by name
	Inputs   []Input              `json:"inputs"`
	Status   []StanzaChange       `json:"status"`   // of dpkg; of the share's packages only
	Extended []StanzaChange       `json:"extended"` // apt's marks of packages that came by themselves
	Config   []StanzaChange       `json:"config"`   // debconf's answers of the share's packages
	Template []StanzaChange       `json:"template"` // debconf's questions
	Queried  map[string]string    `json:"queried"`  // stanzas of other packages that scripts asked dpkg about
	Triggers []string             `json:"triggers"` // explicit triggers that were activated, whether anybody had an interest or not
	// Interests are, for each list of dpkg's of who has an interest in a trigger, the lines of the share's packages that went to its end.
	Interests map[string][]string `json:"interests"`
	Paths     []string            `json:"paths"`  // as dpkg lists them, of files that the share's packages have or had
	Shared    map[string]bool     `json:"shared"` // names in Paths that another package of the image lists too
	Words     []string            `json:"words"`  // of the share's scripts, where names of users are looked for
	Owners    map[string]string   `json:"owners"` // names of the users and groups of entries, by "u" or "g" and the number
	// Users are, for each file of users that was read, the sums of its lines by name.
	Users      map[string]map[string]string `json:"users"`
	Diversions string                       `json:"diversions"` // dpkg's, of the first image
	Overrides  string                       `json:"overrides"`  // dpkg-statoverride(1), of the first image
	Logs       map[string]string            `json:"logs"`       // what was added to logs
	Notes      map[string]string            `json:"notes"`      // the caller's
}

// Entry is one name that changed, or that a package of the share owns.
type Entry struct {
	Name   string `json:"n"`
	Before State  `json:"b"`
	After  State  `json:"a"`
	// Owned is a file of a package of the share, which dpkg replaces whatever is in it: only its type before counts.
	Owned    bool   `json:"o,omitempty"`
	Modified int64  `json:"t,omitempty"` // nanoseconds since 1970, of a file or link with its package's time; 0: the time of the replay
	Link     string `json:"k,omitempty"` // another entry that it is a hard link to
	Offset   int64  `json:"p,omitempty"` // of a file's content in the pack
}

// How much of a name an input is.
const (
	WantType  = "t" // what it is: dpkg's own looks at files that it replaces
	WantState = "s" // its attributes; of a link, where it leads
	WantFile  = "f" // its content too
	WantNames = "l" // the names in a folder
	WantThere = "e" // that it is there, whose it is and whether it is empty
	WantConf  = "c" // which of dpkg's cases for a configuration file it is
)

// Input is something that a process looked at.
type Input struct {
	Name     string `json:"n"` // as the process named it
	NoFollow bool   `json:"l,omitempty"`
	Want     string `json:"w"`
	Real     string `json:"r"` // where it led on the recorded image
	State    State  `json:"s"`
	Names    string `json:"e,omitempty"` // sha256 of the sorted names of a folder
	Only     string `json:"y,omitempty"` // which names of a folder count: patterns, or "python" for modules; "" for all
	// Of a configuration file: dpkg's case, and the md5 that the old and the new package have for it.
	Case string `json:"c,omitempty"`
	Old  string `json:"o,omitempty"`
	New  string `json:"w2,omitempty"`
}

// refusal says in words why a record is not made or not used. It is no failure: the package manager does the work.
type refusal string
