package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// comparison holds images against the repositories and the operator's files; each suite is read once, and each version
// of a package is compared once, however many images have it.
type comparison struct {
	Deps
	files      *advisory.Fixes
	filesStamp string
	fetch      bool // changelogs that are not known are read
	fetched    int
	offers     map[string]*offer // by release and architecture
	lacks      map[installed][]lack
	failed     error // of the first release that could not be read

	// What was found since the last write.
	known    map[string]advisory.Advisory
	spans    map[string]*span // by gap
	findings []advisory.Finding
	projects map[string]string // of the images
}

// offer is what the repositories have for a release.
type offer struct {
	indexes []*deb.Index
	stamp   string
	err     error
}

// installed is one version of one package in one release.
type installed struct {
	release string
	advisory.Installed
}

// lack is a fix that it lacks.
type lack struct {
	advisory advisory.Advisory
	pending  advisory.Pending
	span     *span
}

// span is what lies between the two, with where its changelog is read.
type span struct {
	advisory.Span
	fixes    []advisory.Fix
	index    *deb.Index // nil where no repository has the fix
	fixed    string     // version of the binary package
	security bool
	gap      advisory.Gap
	whole    bool // all that can be known of it today is
	problem  bool // and that is less than there is
}

func (d Deps) newComparison() *comparison {
	c := &comparison{Deps: d, offers: map[string]*offer{}, lacks: map[installed][]lack{}}
	c.forget()
	return c
}

// forget begins the next part of a comparison.
func (c *comparison) forget() {
	c.known, c.spans, c.projects, c.findings = map[string]advisory.Advisory{}, map[string]*span{}, map[string]string{}, nil
}

// plainName is what a release or an architecture may be called: it becomes part of an address, and images are their owners' work.
var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// addSystem compares an image that the store knows, unless nothing changed since it was compared last.
func (c *comparison) addSystem(ctx context.Context, r *job.Run, s advisory.System, force bool) error {
	o := c.offer(ctx, r, s)
	if errs.Is(o.err, errs.Cancelled) || ctx.Err() != nil {
		return o.err
	}
	stamp := digest(s.Sum, o.stamp, c.filesStamp)
	if o.err == nil && !force && (s.Compared == stamp || s.Compared == untilTomorrow(stamp, c.Now())) {
		return nil
	}
	packages, err := c.Store.ListInstalled(ctx, s.ImageID)
	if err != nil {
		return err
	}
	return c.add(ctx, r, s, packages, stamp)
}

// add compares one image. A release that cannot be read leaves what is known of its images as it is.
func (c *comparison) add(ctx context.Context, r *job.Run, s advisory.System, packages []advisory.Installed, stamp string) error {
	o := c.offer(ctx, r, s)
	if errs.Is(o.err, errs.NotFound) {
		// Anybody may upload an image of a release that never was: it must not hold up the others.
		r.Warnf("image %s is not compared: %v", s.ImageID, o.err)
		return nil
	}
	if o.err != nil {
		return nil //nolint:nilerr // c.failed has it: the images of other releases are compared
	}
	f := advisory.Finding{ImageID: s.ImageID, Stamp: stamp, At: c.Now(), Pending: []advisory.Pending{}}
	release := strings.Join([]string{s.OS, s.Release, s.VersionID, s.Architecture}, "/")
	for _, p := range packages {
		key := installed{release, p}
		lacks, seen := c.lacks[key]
		if !seen {
			lacks = c.find(s, o, p)
			c.lacks[key] = lacks
		}
		for _, l := range lacks {
			l.pending.ImageID = s.ImageID
			f.Pending = append(f.Pending, l.pending)
			c.known[l.advisory.ID] = l.advisory
			c.spans[l.pending.Gap] = l.span
		}
	}
	c.findings, c.projects[s.ImageID] = append(c.findings, f), s.ProjectID
	return nil
}

// find compares one version of one package.
func (c *comparison) find(s advisory.System, o *offer, p advisory.Installed) []lack {
	var out []lack
	fixes := p.Fixes(s, c.files)
	from := advisory.Span{Kind: s.Kind, Source: p.Source, Version: p.Version, SourceVersion: p.SourceVersion}
	here := deb.Package{Name: p.Name, Version: p.Version, Architecture: p.Architecture, Source: p.Source, Status: "install ok installed"}
	for _, u := range deb.Pending([]deb.Package{here}, o.indexes) {
		sp := from
		sp.Source, sp.To = u.Source, u.SourceVersion
		if sp.To == "" {
			sp.To = u.To
		}
		out = append(out, c.lack(p, sp, fixes, u.Suite, u.To, strings.HasSuffix(u.Suite, "-security")))
		out[len(out)-1].span.index = o.of(u.Suite)
		from.SourceVersion, from.To = sp.To, sp.To
	}
	if version, suite := from.Beyond(fixes); version != "" {
		from.To = version
		out = append(out, c.lack(p, from, fixes, suite, version, true))
	}
	return out
}

func (c *comparison) lack(p advisory.Installed, sp advisory.Span, fixes []advisory.Fix, suite, fixed string, security bool) lack {
	a := advisory.Advisory{
		ID: strings.Join([]string{suite, p.Name, fixed, p.Architecture}, "/"), Package: p.Name, Source: sp.Source,
		Version: fixed, Suite: suite, Security: security, CVEs: []string{}, CreatedAt: c.Now(), UpdatedAt: c.Now(),
	}
	return lack{
		advisory: a, span: &span{Span: sp, fixes: fixes, fixed: fixed, security: security},
		pending: advisory.Pending{
			AdvisoryID: a.ID, Package: p.Name, Architecture: p.Architecture, Source: sp.Source, Installed: p.Version, Fixed: fixed,
			Suite: suite, Security: security, Gap: sp.ID(),
		},
	}
}

func (o *offer) of(suite string) *deb.Index {
	i := slices.IndexFunc(o.indexes, func(ix *deb.Index) bool { return ix.Suite.Suite == suite })
	if i < 0 {
		return nil
	}
	return o.indexes[i]
}

// offer reads what the repositories have for the system, once.
func (c *comparison) offer(ctx context.Context, r *job.Run, s advisory.System) *offer {
	if s.OS != "debian" { // only the operator's files know of the others
		return &offer{}
	}
	key := s.Release + "/" + s.Architecture
	o := c.offers[key]
	if o == nil {
		o = &offer{}
		if plainName.MatchString(s.Release) && plainName.MatchString(s.Architecture) {
			o.indexes, o.stamp, o.err = c.read(ctx, r, s)
		} else {
			o.err = errs.New(errs.NotFound, "kiln.advisory.release_unknown", "there is no release %q for the architecture %q", s.Release, s.Architecture)
		}
		if o.err != nil && !errs.Is(o.err, errs.NotFound) {
			o.err = errs.Wrap(o.err, errs.KindOf(o.err), errs.CodeOf(o.err), "the fixes for %s could not be read, what was known of its images stays", key)
			r.Warnf("%v", o.err)
			if c.failed == nil {
				c.failed = o.err
			}
		}
		c.offers[key] = o
	}
	return o
}

func (c *comparison) read(ctx context.Context, r *job.Run, s advisory.System) ([]*deb.Index, string, error) {
	var out []*deb.Index
	var stamps []string
	for _, suite := range c.Suites.For(s.Release) {
		r.Progress("read "+suite.Suite, 0, 0, "steps")
		ix, err := c.Indexes.Fetch(ctx, deb.Suite{Mirror: suite.Mirror, Suite: suite.Suite, Components: suite.Components, Arch: s.Architecture})
		if err != nil {
			return nil, "", err
		}
		r.Logf("%s of %s has %d packages", suite.Suite, ix.Date.UTC().Format("2006-01-02 15:04 MST"), ix.Len())
		out, stamps = append(out, ix), append(stamps, suite.Mirror, suite.Suite, ix.Date.UTC().Format(time.RFC3339))
	}
	return out, strings.Join(stamps, " "), nil
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:20])
}

func sorted(names map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n")
}
