package build

import (
	"context"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// hostedScheme begins the URL of a source that Kiln hosts.
const hostedScheme = "kiln:"

// HostedURL is the URL of a hosted source inside Kiln; users have the API's address of it instead.
func HostedURL(sourceID string) string { return hostedScheme + sourceID }

// HostedID is the id of the source that a HostedURL means.
func HostedID(url string) (id string, ok bool) { return strings.CutPrefix(url, hostedScheme) }

// Ref is one branch or tag of a hosted repository.
type Ref struct {
	Name string `json:"name"` // in full, "refs/heads/main"
	Hash string `json:"hash"` // 40 hex digits
}

// Pack is objects in git's pack format (https://git-scm.com/docs/pack-format). It names no object outside itself
// and the packs before it.
type Pack struct {
	Seq    int64
	SHA256 string // hex, of Data
	Data   []byte
}

// Repository is a hosted repository as it is at one moment.
type Repository struct {
	Version int64 // grows with each change
	Refs    []Ref // by name
	Packs   []Pack
	Bytes   int64 // of all packs
}

// RefMove is the change of one ref.
type RefMove struct {
	Name string
	Old  string // "" for a ref that is made
	New  string // "" for a ref that is removed
}

// RepositoryChange is one push.
type RepositoryChange struct {
	Moves []RefMove
	Pack  []byte // nil for none
	Whole bool   // Pack has everything: the packs before it go
}

// Repositories keeps the repositories of hosted sources.
type Repositories interface {
	// FindRepository reads refs, and packs where they are wanted; one that nothing was pushed to yet is empty.
	FindRepository(ctx context.Context, sourceID string, packs bool) (Repository, error)
	// ChangeRepository makes the change if the repository still has the version: ErrMoved otherwise. A ref that is
	// not at its Old is errs.Conflict kiln.source.ref_moved, and nothing is written.
	ChangeRepository(ctx context.Context, sourceID string, version int64, c RepositoryChange) error
}

// ErrMoved says that another push came first: look at the repository again.
var ErrMoved = errs.New(errs.Conflict, "kiln.source.moved", "another push changed the repository meanwhile: fetch, and push again")
