package build

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// NewSource is what a caller gives of a source: the address of a repository, or Hosted for one that Kiln keeps.
type NewSource struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Hosted   bool   `json:"hosted"`
	Ref      string `json:"ref"`
	Interval string `json:"interval"` // how often it is pulled, "15m"; "" for only when asked or told by a webhook
	Secret   string `json:"secret"`   // for webhooks; made where it is left out
}

// MinInterval is how often a remote may be pulled at most.
const MinInterval = time.Minute

// maxInterval is the longest interval: what is rarer is asked for.
const maxInterval = 30 * 24 * time.Hour

// CreateSource writes a source and the job that reads it. A hosted one waits for its first push instead.
// errs.Conflict where the name is taken in the project.
func (s *Service) CreateSource(ctx context.Context, by job.By, n NewSource) (Source, error) {
	every, err := s.checkSource(n)
	if err != nil {
		return Source{}, err
	}
	now := s.Now().UTC()
	src := Source{
		ID: s.NewID(), ProjectID: by.ProjectID, Name: n.Name, URL: n.URL, Hosted: n.Hosted, Ref: n.Ref, State: SourceNew,
		Interval: n.Interval, Secret: n.Secret, CreatedAt: now, UpdatedAt: now,
	}
	if src.Secret == "" {
		src.Secret = newSecret()
	}
	if src.Hosted {
		src.URL = HostedURL(src.ID)
	} else {
		src.State, src.JobID = SourceSyncing, s.NewID()
	}
	if every > 0 {
		next := now.Add(every)
		src.NextSync = &next
	}
	err = s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.CreateSource(ctx, src); err != nil {
			return err
		}
		if src.Hosted {
			return s.Tell(ctx, by, "source.created", "sources/"+src.ID, src.ProjectID, src)
		}
		return s.startSync(ctx, by, src, "source.created", "")
	})
	return src, err
}

// newSecret has the form that GitLab asks of a signing token (whsec_ and the base64 of 32 bytes,
// https://docs.gitlab.com/user/project/integrations/webhooks/); the others take any text.
func newSecret() string {
	key := make([]byte, 32)
	rand.Read(key)
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// RenewSecret gives the source another secret; what is signed with the old one is refused from now on.
func (s *Service) RenewSecret(ctx context.Context, by job.By, id, secret string) (Source, error) {
	if err := checkSecret(secret); err != nil {
		return Source{}, err
	}
	if secret == "" {
		secret = newSecret()
	}
	var src Source
	err := s.changeSource(ctx, id, func(ctx context.Context, have *Source) error {
		if have.Hosted {
			return errs.New(errs.Invalid, "kiln.source.hosted", "a repository that Kiln hosts takes no webhooks: it is read when it is pushed to")
		}
		have.Secret = secret
		src = *have
		return s.Tell(ctx, by, "source.secret_renewed", "sources/"+id, have.ProjectID, *have)
	})
	return src, err
}

// changeSource reads, changes and writes a source while it is held.
func (s *Service) changeSource(ctx context.Context, id string, change func(ctx context.Context, src *Source) error) error {
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockSource(ctx, id); err != nil {
			return err
		}
		src, err := s.Store.FindSource(ctx, id)
		if err != nil {
			return err
		}
		src.UpdatedAt = s.Now().UTC()
		if err := change(ctx, &src); err != nil {
			return err
		}
		return s.Store.UpdateSource(ctx, src)
	})
}

func (s *Service) startSync(ctx context.Context, by job.By, src Source, event, why string) error {
	_, err := s.Start(ctx, by, job.Draft{
		ID: src.JobID, Kind: job.SyncSource, Queue: job.WorkerQueue, ProjectID: src.ProjectID,
		Resource: "sources/" + src.ID, Payload: SyncPayload{SourceID: src.ID, Why: why},
	})
	if err != nil {
		return err
	}
	return s.Tell(ctx, by, event, "sources/"+src.ID, src.ProjectID, src)
}

// SyncSource starts reading the source again. Where that is under way already, the running job is joined.
func (s *Service) SyncSource(ctx context.Context, by job.By, id string) (Source, error) {
	return s.sync(ctx, by, id, "", nil)
}

// Announced starts reading the source because somebody told that it changed, and builds what did. A read that is
// under way may have looked already, so it is followed by another one; one that waits is joined. names are those of
// the message: one that has a name of an earlier one is a replay and does nothing (started is false).
func (s *Service) Announced(ctx context.Context, by job.By, id, why string, names ...string) (src Source, started bool, err error) {
	src, err = s.sync(ctx, by, id, why, func(ctx context.Context) (bool, error) {
		started = true
		for _, name := range names {
			fresh, err := s.Store.NoteDelivery(ctx, id, name, s.Now().UTC())
			if err != nil {
				return false, err
			}
			started = started && fresh
		}
		return started, nil
	})
	return src, started, err
}

// sync starts a job.SyncSource if the guard says so; nil always does.
func (s *Service) sync(ctx context.Context, by job.By, id, why string, guard func(ctx context.Context) (bool, error)) (Source, error) {
	var out Source
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.LockSource(ctx, id); err != nil {
			return err
		}
		proceed := true
		if guard != nil {
			var err error
			if proceed, err = guard(ctx); err != nil {
				return err
			}
		}
		src, err := s.Store.FindSource(ctx, id) // behind the guard: it may write the source
		if out = src; err != nil || !proceed {
			return err
		}
		open, err := s.Open(ctx, src.JobID)
		if err != nil || open != nil && joins(*open, why) {
			return err
		}
		src.State, src.Error, src.JobID, src.UpdatedAt = SourceSyncing, "", s.NewID(), s.Now().UTC()
		if err := s.Store.UpdateSource(ctx, src); err != nil {
			return err
		}
		out = src
		return s.startSync(ctx, by, src, "source.syncing", why)
	})
	return out, err
}

// joins tells whether an open read of the source does what another one for the reason would.
func joins(open job.Job, why string) bool {
	if why == "" {
		return true
	}
	var p SyncPayload
	return open.State == job.Pending && open.Decode(&p) == nil && p.Why != ""
}

// dueAtOnce bounds one round of SyncDue.
const dueAtOnce = 100

// SyncDue starts reading the sources whose interval is over, each once however many engines ask. It returns how many
// it started; a source that fails does not hold up the others.
func (s *Service) SyncDue(ctx context.Context, by job.By) (started int, err error) {
	due, err := s.Store.DueSources(ctx, s.Now().UTC(), dueAtOnce)
	if err != nil {
		return 0, err
	}
	for _, src := range due {
		every, perr := time.ParseDuration(src.Interval)
		if perr != nil || every < MinInterval {
			every = maxInterval
		}
		mine := false
		_, serr := s.sync(ctx, job.By{ProjectID: src.ProjectID, RequestID: by.RequestID}, src.ID, "pulled every "+src.Interval, func(ctx context.Context) (bool, error) {
			var err error
			mine, err = s.Store.TakeSync(ctx, src.ID, *src.NextSync, s.Now().UTC().Add(every))
			return mine, err
		})
		switch {
		case serr != nil && !errs.Is(serr, errs.NotFound):
			err = serr
		case serr == nil && mine:
			started++
		}
	}
	return started, err
}

// scpLike is git's own short form of an SSH address: user@host:path.
var scpLike = regexp.MustCompile(`^[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9.][A-Za-z0-9.-]*:[^-:][^:]*$`)

// refName is what git allows in a ref, without all that could be read as an option or a range.
var refName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}$`)

// checkSource refuses what cannot be a source, and tells how often it is pulled; 0 for never.
func (s *Service) checkSource(n NewSource) (every time.Duration, err error) {
	if err := job.CheckName("kiln.source.name", "name", n.Name); err != nil {
		return 0, err
	}
	if n.Ref != "" && (!refName.MatchString(n.Ref) || strings.Contains(n.Ref, "..")) {
		return 0, errs.New(errs.Invalid, "kiln.source.ref", "%q is not the name of a branch or tag", n.Ref).At(errs.Where{Field: "ref"})
	}
	if err := checkSecret(n.Secret); err != nil {
		return 0, err
	}
	if n.Hosted {
		return 0, checkHosted(n)
	}
	if n.Interval != "" {
		if every, err = time.ParseDuration(n.Interval); err != nil || every < MinInterval || every > maxInterval {
			return 0, errs.New(errs.Invalid, "kiln.source.interval", "%q is no interval: write 15m or 2h, at least 1m and at most 720h", n.Interval).
				At(errs.Where{Field: "interval"})
		}
	}
	return every, s.checkURL(n.URL)
}

func checkHosted(n NewSource) error {
	for _, given := range []struct{ field, value string }{{"url", n.URL}, {"interval", n.Interval}} {
		if given.value != "" {
			return errs.New(errs.Invalid, "kiln.source.hosted", "a repository that Kiln hosts has no %s: it is read when it is pushed to", given.field).
				At(errs.Where{Field: given.field})
		}
	}
	return nil
}

// secretText is what can stand in a header.
var secretText = regexp.MustCompile(`^[!-~]{16,200}$`)

func checkSecret(secret string) error {
	if secret == "" || secretText.MatchString(secret) {
		return nil
	}
	return errs.New(errs.Invalid, "kiln.source.secret", "a secret has 16 to 200 characters without spaces; leave it out, and Kiln makes one").
		At(errs.Where{Field: "secret"})
}

func (s *Service) checkURL(address string) error {
	refuse := func(why string) error {
		return errs.New(errs.Invalid, "kiln.source.url", "this address of a git repository is refused: %s", why).At(errs.Where{Field: "url"})
	}
	if len(address) > 1024 || strings.ContainsAny(address, " \t\r\n\x00") {
		return refuse("it has spaces or control characters, or more than 1024 characters")
	}
	if scpLike.MatchString(address) {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return refuse("it is not a URL")
	}
	switch u.Scheme {
	case "https", "http", "ssh", "git":
		if u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") {
			return refuse("it names no host")
		}
	case "file":
		if !s.AllowLocal || u.Host != "" {
			return refuse("files of the worker's machine are no sources here")
		}
	default:
		return refuse("use https, http, ssh, git or user@host:path")
	}
	if _, secret := u.User.Password(); secret {
		return refuse("it holds a password, which every reader of the project would see")
	}
	return nil
}
