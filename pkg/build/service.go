package build

import (
	"context"
	"net/url"
	"regexp"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/listing"
	"github.com/kiln-cloud/kiln/pkg/recipe"
)

// The states of a source.
const (
	SourceNew     = "new"
	SourceSyncing = "syncing"
	SourceReady   = "ready"
	SourceFailed  = "failed"
)

// JobPayload is the input of a job.Build.
type JobPayload struct {
	BuildID string `json:"build_id"`
}

// SyncPayload is the input of a job.SyncSource.
type SyncPayload struct {
	SourceID string `json:"source_id"`
}

// Service keeps sources and starts builds.
type Service struct {
	job.Desk
	Store Store
	// AllowLocal lets sources be file:// URLs: for one machine that is its user's own, never for a shared cloud.
	AllowLocal bool
}

// NewSource is what a caller gives of a source.
type NewSource struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	Ref  string `json:"ref"`
}

// CreateSource writes a source and the job that reads it. errs.Conflict where the name is taken in the project.
func (s *Service) CreateSource(ctx context.Context, by job.By, n NewSource) (Source, error) {
	if err := s.checkSource(n); err != nil {
		return Source{}, err
	}
	now := s.Now().UTC()
	src := Source{
		ID: s.NewID(), ProjectID: by.ProjectID, Name: n.Name, URL: n.URL, Ref: n.Ref, State: SourceSyncing,
		JobID: s.NewID(), CreatedAt: now, UpdatedAt: now,
	}
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		if err := s.Store.CreateSource(ctx, src); err != nil {
			return err
		}
		return s.startSync(ctx, by, src, "source.created")
	})
	return src, err
}

func (s *Service) startSync(ctx context.Context, by job.By, src Source, event string) error {
	_, err := s.Start(ctx, by, job.Draft{
		ID: src.JobID, Kind: job.SyncSource, Queue: job.WorkerQueue, ProjectID: src.ProjectID,
		Resource: "sources/" + src.ID, Payload: SyncPayload{SourceID: src.ID},
	})
	if err != nil {
		return err
	}
	return s.Tell(ctx, by, event, "sources/"+src.ID, src.ProjectID, src)
}

// SyncSource starts reading the source again. Where that is under way already, the running job is joined.
func (s *Service) SyncSource(ctx context.Context, by job.By, id string) (Source, error) {
	var src Source
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		var err error
		if src, err = s.Store.FindSource(ctx, id); err != nil {
			return err
		}
		if open, err := s.Open(ctx, src.JobID); err != nil || open != nil {
			return err
		}
		src.State, src.Error, src.JobID, src.UpdatedAt = SourceSyncing, "", s.NewID(), s.Now().UTC()
		if err := s.Store.UpdateSource(ctx, src); err != nil {
			return err
		}
		return s.startSync(ctx, by, src, "source.syncing")
	})
	return src, err
}

// DeleteSource removes the source with its recipes and stops its job; builds stay.
func (s *Service) DeleteSource(ctx context.Context, by job.By, id string) error {
	return s.Tx.InTx(ctx, func(ctx context.Context) error {
		src, err := s.Store.FindSource(ctx, id)
		if err != nil {
			return err
		}
		if _, err := s.Stop(ctx, src.JobID); err != nil {
			return err
		}
		if err := s.Store.DeleteSource(ctx, id); err != nil {
			return err
		}
		return s.Tell(ctx, by, "source.deleted", "sources/"+id, src.ProjectID, src)
	})
}

// RecipeByName finds a recipe by the names of its source and itself. errs.Invalid names the field that fits nothing.
func (s *Service) RecipeByName(ctx context.Context, projectID, source, name string) (Recipe, error) {
	q := listing.Query{ProjectID: projectID, Limit: 1}
	sources, err := s.Store.ListSources(ctx, q.Where("name", source))
	if err != nil {
		return Recipe{}, err
	}
	if len(sources) == 0 {
		return Recipe{}, errs.New(errs.Invalid, "kiln.source.not_found", "there is no source %q in your project", source).At(errs.Where{Field: "source"})
	}
	recipes, err := s.Store.ListRecipes(ctx, q.Where("source_id", sources[0].ID).Where("name", name))
	if err != nil {
		return Recipe{}, err
	}
	if len(recipes) == 0 {
		return Recipe{}, errs.New(errs.Invalid, "kiln.recipe.not_found", "there is no recipe %q in source %q; sync the source if it is new", name, source).
			At(errs.Where{Field: "recipe"})
	}
	return recipes[0], nil
}

// RequestBuild starts a build of a recipe in the recipe's project; force builds even where nothing changed.
// A recipe with problems is refused with all of them (recipe.ParseErrors). errs.Conflict while a build of the recipe is open.
func (s *Service) RequestBuild(ctx context.Context, by job.By, recipeID string, force bool) (Build, error) {
	var b Build
	err := s.Tx.InTx(ctx, func(ctx context.Context) error {
		r, err := s.Store.FindRecipe(ctx, recipeID)
		if err != nil {
			return err
		}
		if err := problems(r); err != nil {
			return err
		}
		if err := s.refuseSecond(ctx, r); err != nil {
			return err
		}
		now := s.Now().UTC()
		b = Build{
			ID: s.NewID(), ProjectID: r.ProjectID, SourceID: r.SourceID, RecipeID: r.ID, Recipe: r.Name, Commit: r.Commit,
			Family: r.Spec.Family, State: Queued, Force: force, JobID: s.NewID(), CreatedAt: now, UpdatedAt: now,
		}
		if err := s.Store.CreateBuild(ctx, b); err != nil {
			return err
		}
		if _, err := s.Start(ctx, by, job.Draft{
			ID: b.JobID, Kind: job.Build, Queue: job.WorkerQueue, ProjectID: b.ProjectID,
			Resource: "builds/" + b.ID, Payload: JobPayload{BuildID: b.ID},
		}); err != nil {
			return err
		}
		return s.Tell(ctx, by, "build.queued", "builds/"+b.ID, b.ProjectID, b)
	})
	return b, err
}

func (s *Service) refuseSecond(ctx context.Context, r Recipe) error {
	for _, state := range []State{Queued, Running} {
		open, err := s.Store.ListBuilds(ctx, listing.Query{Limit: 1}.Where("recipe_id", r.ID).Where("state", string(state)))
		if err != nil {
			return err
		}
		if len(open) > 0 {
			return errs.New(errs.Conflict, "kiln.build.open", "build %s of this recipe is %s: wait for it, or cancel job %s", open[0].ID, state, open[0].JobID)
		}
	}
	return nil
}

// problems gives the faults of a recipe as they were found when its source was read.
func problems(r Recipe) error {
	if len(r.Problems) == 0 && r.Spec != nil {
		return nil
	}
	if len(r.Problems) == 0 {
		return errs.New(errs.Invalid, "kiln.recipe.unread", "recipe %q was not read yet: sync its source", r.Name).At(errs.Where{File: r.Path})
	}
	out := make(recipe.ParseErrors, len(r.Problems))
	for i, p := range r.Problems {
		out[i] = errs.New(errs.Invalid, p.Code, "%s", p.Detail).At(p.Where)
	}
	return out
}

// BuildCancelled writes the end of a build whose job was cancelled before it ran.
func (s *Service) BuildCancelled(ctx context.Context, by job.By, j job.Job) error {
	var p JobPayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	b, err := s.Store.FindBuild(ctx, p.BuildID)
	if err != nil {
		return err
	}
	b.State, b.Error, b.UpdatedAt = Cancelled, "cancelled on request before it started", s.Now().UTC()
	if err := s.Store.UpdateBuild(ctx, b); err != nil {
		return err
	}
	return s.Tell(ctx, by, "build.cancelled", "builds/"+b.ID, b.ProjectID, b)
}

// SyncCancelled writes the end of a sync whose job was cancelled before it ran.
func (s *Service) SyncCancelled(ctx context.Context, by job.By, j job.Job) error {
	var p SyncPayload
	if err := j.Decode(&p); err != nil {
		return err
	}
	src, err := s.Store.FindSource(ctx, p.SourceID)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	src.State, src.Error, src.UpdatedAt = SourceNew, "", s.Now().UTC()
	if src.SyncedAt != nil {
		src.State = SourceReady
	}
	if err := s.Store.UpdateSource(ctx, src); err != nil {
		return err
	}
	return s.Tell(ctx, by, "source.sync_cancelled", "sources/"+src.ID, src.ProjectID, src)
}

// scpLike is git's own short form of an SSH address: user@host:path.
var scpLike = regexp.MustCompile(`^[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9.][A-Za-z0-9.-]*:[^-:][^:]*$`)

// refName is what git allows in a ref, without all that could be read as an option or a range.
var refName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}$`)

func (s *Service) checkSource(n NewSource) error {
	if err := job.CheckName("kiln.source.name", "name", n.Name); err != nil {
		return err
	}
	if n.Ref != "" && (!refName.MatchString(n.Ref) || strings.Contains(n.Ref, "..")) {
		return errs.New(errs.Invalid, "kiln.source.ref", "%q is not the name of a branch or tag", n.Ref).At(errs.Where{Field: "ref"})
	}
	refuse := func(why string) error {
		return errs.New(errs.Invalid, "kiln.source.url", "this address of a git repository is refused: %s", why).At(errs.Where{Field: "url"})
	}
	if len(n.URL) > 1024 || strings.ContainsAny(n.URL, " \t\r\n\x00") {
		return refuse("it has spaces or control characters, or more than 1024 characters")
	}
	if scpLike.MatchString(n.URL) {
		return nil
	}
	u, err := url.Parse(n.URL)
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
