// Package gitsource brings the files of a git repository at one commit. It runs no hook, no filter and no git
// program: objects are fetched (one commit deep) and the tree is written out by Kiln itself.
package gitsource

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// Fetcher fetches repositories. The zero value takes http, https and ssh.
type Fetcher struct {
	AllowLocal bool          // file:// URLs and paths: whoever may make a source then reads what Kiln can read
	MaxBytes   int64         // of what is received, and of the files; 512 MiB where it is 0
	MaxFiles   int           // 20,000 where it is 0
	Timeout    time.Duration // of the whole fetch; 5 min where it is 0
	SSHKey     string        // path of the private key for ssh URLs; "" asks the ssh agent
	KnownHosts string        // path of the host keys that are trusted; "" is ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
}

// Checkout is a repository at one commit, in a folder of the caller's.
type Checkout struct {
	Commit string       // 40 hex digits
	Files  recipe.Files // refuses links that leave the repository; submodules are empty folders
	root   *os.Root
}

// Close gives the folder back; removing it is the caller's.
func (c Checkout) Close() error {
	if c.root == nil {
		return nil
	}
	return c.root.Close()
}

// Fetch brings the commit that ref means into dir, which is made where it is missing and must be empty: a branch,
// a tag, a full reference or a commit's 40 digits; "" is the remote's HEAD.
//
// Errors: errs.Invalid with the field url (kiln.source.url, .local, .not_found, .denied, .empty) or ref
// (kiln.source.ref), or kiln.source.content for a tree that no file system can hold; errs.TooLarge
// kiln.source.too_large; errs.Unavailable kiln.source.away; errs.Timeout. They never hold the URL's user or password.
func (f Fetcher) Fetch(ctx context.Context, rawURL, ref, dir string) (Checkout, error) {
	f.complete()
	s, err := f.parse(rawURL)
	if err != nil {
		return Checkout{}, err
	}
	inner, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	commit, err := f.find(inner, s, ref, filepath.Join(dir, "objects"))
	if err != nil {
		return Checkout{}, s.fault(ctx, inner, err)
	}
	root, err := f.write(inner, commit, filepath.Join(dir, "tree"))
	if err != nil {
		return Checkout{}, s.fault(ctx, inner, err)
	}
	return Checkout{Commit: commit.Hash.String(), Files: root.FS(), root: root}, nil
}

func (f *Fetcher) complete() {
	if f.MaxBytes == 0 {
		f.MaxBytes = 512 << 20
	}
	if f.MaxFiles == 0 {
		f.MaxFiles = 20_000
	}
	if f.Timeout == 0 {
		f.Timeout = 5 * time.Minute
	}
}

// source is a URL that was understood.
type source struct {
	endpoint *transport.Endpoint
	raw      string
	auth     transport.AuthMethod
}

func invalid(field, code, format string, args ...any) *errs.Error {
	return errs.New(errs.Invalid, "kiln.source."+code, format, args...).At(errs.Where{Field: field})
}

func (f Fetcher) parse(rawURL string) (source, error) {
	endpoint, err := transport.NewEndpoint(rawURL)
	if rawURL == "" || err != nil { // the error would quote the URL
		return source{}, invalid("url", "url", "the source's URL cannot be understood: use https://HOST/PATH or ssh://USER@HOST/PATH")
	}
	s := source{endpoint: endpoint, raw: rawURL}
	switch endpoint.Protocol {
	case "http", "https":
		return s, nil
	case "ssh":
		return s, f.sshAuth(&s)
	case "file":
		if !f.AllowLocal {
			return s, invalid("url", "local", "sources on the worker's own disk are not allowed here")
		}
		return s, nil
	}
	return s, invalid("url", "url", "sources come by https, http or ssh, not by %q", endpoint.Protocol)
}

func (f Fetcher) sshAuth(s *source) error {
	if f.SSHKey == "" {
		return nil // go-git asks the agent
	}
	user := s.endpoint.User
	if user == "" {
		user = ssh.DefaultUsername
	}
	keys, err := ssh.NewPublicKeysFromFile(user, f.SSHKey, "")
	if err != nil {
		return errs.Wrap(err, errs.Internal, "kiln.source.key", "the worker's ssh key cannot be read")
	}
	if f.KnownHosts != "" {
		if keys.HostKeyCallback, err = ssh.NewKnownHostsCallback(f.KnownHosts); err != nil {
			return errs.Wrap(err, errs.Internal, "kiln.source.key", "the worker's known hosts cannot be read")
		}
	}
	s.auth = keys
	return nil
}

// name is the URL without what may be a secret: user, password and query.
func (s source) name() string {
	if s.endpoint.Protocol == "file" {
		return "file://" + s.endpoint.Path
	}
	host := s.endpoint.Host
	if s.endpoint.Port > 0 {
		host = fmt.Sprintf("%s:%d", host, s.endpoint.Port)
	}
	path, _, _ := strings.Cut(s.endpoint.Path, "?")
	return s.endpoint.Protocol + "://" + host + "/" + strings.TrimPrefix(path, "/")
}

// fault turns go-git's errors into Kiln's; ctx is the caller's, inner has the limit of time.
func (s source) fault(ctx, inner context.Context, err error) error {
	var known *errs.Error
	switch {
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return errs.Wrap(ctx.Err(), errs.KindOf(ctx.Err()), "kiln.source.cancelled", "fetching %s was cancelled", s.name())
	case inner.Err() != nil:
		return errs.New(errs.Timeout, "kiln.source.timeout", "%s did not give the repository in time", s.name())
	case errors.Is(err, transport.ErrRepositoryNotFound), errors.Is(err, git.ErrRepositoryNotExists):
		return invalid("url", "not_found", "there is no git repository at %s", s.name())
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return invalid("url", "empty", "the repository %s has no commit yet", s.name())
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return invalid("url", "denied", "%s does not let Kiln read the repository", s.name())
	}
	return errs.Wrap(s.hush(err), errs.Unavailable, "kiln.source.away", "%s cannot be read", s.name()).After(time.Minute)
}

// hush takes the URL's secrets out of a cause.
func (s source) hush(err error) error {
	text := strings.ReplaceAll(err.Error(), s.raw, s.name())
	for _, secret := range []string{s.endpoint.Password, s.endpoint.User} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
			text = strings.ReplaceAll(text, url.QueryEscape(secret), "***")
			text = strings.ReplaceAll(text, url.PathEscape(secret), "***")
		}
	}
	return errors.New(text)
}

// find brings the commit's objects and reads it.
func (f Fetcher) find(ctx context.Context, s source, ref, dir string) (*object.Commit, error) {
	if s.endpoint.Protocol == "file" {
		return f.local(s, ref)
	}
	return f.remote(ctx, s, ref, dir)
}

// commitOf follows an annotated tag to its commit.
func commitOf(repo *git.Repository, hash plumbing.Hash, ref string) (*object.Commit, error) {
	if tag, err := repo.TagObject(hash); err == nil {
		commit, err := tag.Commit()
		if err != nil {
			return nil, invalid("ref", "ref", "the tag %q does not mean a commit", ref)
		}
		return commit, nil
	}
	commit, err := repo.CommitObject(hash)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, noRef(ref)
	}
	return commit, err
}

func noRef(ref string) error {
	return invalid("ref", "ref", "the repository has no branch, tag or commit %q", ref)
}
