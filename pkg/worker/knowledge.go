package worker

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/deb"
	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/event"
	"github.com/kiln-cloud/kiln/pkg/job"
)

// Bounds of reading changelogs.
const (
	maxChangelogs = 400              // of one refresh; the next one reads on
	maxTries      = 16               // packages of one source: many are empty, or only link to another one's changelog
	maxFetched    = 64 << 20         // bytes of these packages
	maxChanges    = 500              // that are kept of a changelog, the newest
	tryAgain      = 24 * time.Hour   // after a changelog that could not be read
	readTime      = 30 * time.Minute // of all in one refresh
)

// learn finds out what the gaps close: security first, because a refresh reads a bounded number of changelogs.
func (c *comparison) learn(ctx context.Context, r *job.Run) error {
	ids := slices.SortedFunc(maps.Keys(c.spans), func(a, b string) int {
		if c.spans[a].security != c.spans[b].security {
			if c.spans[a].security {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	until := c.Now().Add(readTime)
	for i, id := range ids {
		s := c.spans[id]
		if s.whole { // in an earlier part
			continue
		}
		r.Progress("read changelogs", int64(i), int64(len(ids)), "sources")
		changes, whole, err := c.changes(ctx, r, s, c.Now().Before(until))
		if err != nil {
			return err
		}
		s.gap, s.whole = s.Gap(changes, s.fixes, c.files), whole
	}
	cves := map[string]map[string]bool{}
	for i := range c.findings {
		f := &c.findings[i]
		for j := range f.Pending {
			p := &f.Pending[j]
			s := c.spans[p.Gap]
			p.Urgency = s.gap.Urgency
			switch {
			case !s.whole:
				f.Stamp = ""
			case s.problem && f.Stamp != "":
				f.Stamp = untilTomorrow(stampOf(f.Stamp), f.At)
			}
			a := c.known[p.AdvisoryID]
			a.Urgency = advisory.Worse(a.Urgency, s.gap.Urgency)
			c.known[a.ID] = a
			if cves[a.ID] == nil {
				cves[a.ID] = map[string]bool{}
			}
			for _, cve := range s.gap.CVEs {
				cves[a.ID][cve.ID] = true
			}
		}
		f.Lacks = advisory.Count(f.Pending)
	}
	for id, set := range cves {
		a := c.known[id]
		a.CVEs = advisory.SortCVEs(set)
		c.known[id] = a
	}
	return nil
}

// stampOf is a stamp without its day.
func stampOf(stamp string) string {
	stamp, _, _ = strings.Cut(stamp, "@")
	return stamp
}

// untilTomorrow is a stamp that holds on that day alone: a changelog that could not be read is tried again.
func untilTomorrow(stamp string, day time.Time) string {
	return stamp + "@" + day.UTC().Format(time.DateOnly)
}

// changes gives what the changelog of the fixed version says, and whether that is all that can be known today.
func (c *comparison) changes(ctx context.Context, r *job.Run, s *span, inTime bool) ([]advisory.Change, bool, error) {
	if s.index == nil || c.Changelogs == nil {
		return nil, true, nil
	}
	l, err := c.Store.FindChangelog(ctx, s.Source, s.To)
	switch {
	case err == nil && l.Problem == "":
		return l.Changes, true, nil
	case err != nil && !errs.Is(err, errs.NotFound):
		return nil, false, err
	case err == nil && c.Now().Sub(l.ReadAt) < tryAgain:
		s.problem = true
		return nil, true, nil
	case !c.fetch || !inTime || c.fetched >= maxChangelogs:
		return nil, false, nil
	}
	c.fetched++
	l = advisory.Changelog{Source: s.Source, Version: s.To, Changes: []advisory.Change{}, ReadAt: c.Now()}
	entries, err := c.changelog(ctx, s)
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	if err != nil {
		l.Problem, s.problem = err.Error(), true
		r.Warnf("no changelog of %s %s: %v", s.Source, s.To, err)
	}
	for _, e := range entries[:min(len(entries), maxChanges)] {
		l.Changes = append(l.Changes, advisory.Change{Source: e.Source, Version: e.Version, Urgency: e.Urgency, CVEs: deb.CVEs([]deb.Entry{e})})
	}
	return l.Changes, true, c.Store.PutChangelog(ctx, l)
}

// changelog reads it from the smallest package of the source that has one. For a source that only signs it is that of
// what was signed: its own packages are links, or a whole kernel.
func (c *comparison) changelog(ctx context.Context, s *span) ([]deb.Entry, error) {
	err := error(errs.New(errs.NotFound, "kiln.advisory.changelog_missing", "the repository has no package of it"))
	var all []deb.Candidate
	if built := advisory.Unsigned(s.Source); built != s.Source {
		all = s.index.OfSource(built, s.fixed)
	}
	left := int64(maxFetched)
	for i, candidate := range append(all, s.index.OfSource(s.Source, s.To)...) {
		if left -= candidate.Size; i == maxTries || left < 0 {
			break
		}
		var entries []deb.Entry
		if entries, err = c.Changelogs.Changelog(ctx, s.index.Suite.Mirror, candidate); err == nil {
			return entries, nil
		}
		if !errs.Is(err, errs.NotFound) {
			return nil, err
		}
	}
	return nil, err
}

// write keeps what was found. It may be called in the transaction that ends a job, and again where that is tried again.
func (c *comparison) write(ctx context.Context, r *job.Run) error {
	gaps := make([]advisory.Gap, 0, len(c.spans))
	for _, id := range slices.Sorted(maps.Keys(c.spans)) {
		gaps = append(gaps, c.spans[id].gap)
	}
	if err := c.Store.PutGaps(ctx, gaps); err != nil {
		return err
	}
	if err := c.Store.InTx(ctx, func(ctx context.Context) error { return c.publish(ctx, r) }); err != nil {
		return err
	}
	if err := c.Store.PutFindings(ctx, c.findings); err != nil {
		return err
	}
	for _, f := range c.findings {
		if err := c.Store.Record(ctx, event.Event{
			Type: "image.compared", Resource: "images/" + f.ImageID, ProjectID: c.projects[f.ImageID], RequestID: r.Job.RequestID,
		}); err != nil {
			return err
		}
	}
	return nil
}

// publish writes the advisories and tells of security fixes that are new, or more urgent than was known.
func (c *comparison) publish(ctx context.Context, r *job.Run) error {
	ids := slices.Sorted(maps.Keys(c.known))
	old, err := c.Store.KnownAdvisories(ctx, ids)
	if err != nil {
		return err
	}
	all := make([]advisory.Advisory, 0, len(ids))
	fresh := map[string]*advisory.Published{}
	for _, id := range ids {
		a := c.known[id]
		was, known := old[id]
		a = a.Merge(was)
		all = append(all, a)
		if !a.Security || known && advisory.Level(a.Urgency) <= advisory.Level(was.Urgency) {
			continue
		}
		key := a.Suite + " " + a.Source + " " + a.Version
		if fresh[key] == nil {
			fresh[key] = &advisory.Published{Suite: a.Suite, Source: a.Source, Version: a.Version}
		}
		fresh[key].Add(a, was)
	}
	if err := c.Store.PutAdvisories(ctx, all); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(fresh)) {
		p := fresh[key]
		p.Images = c.lacking(p.Advisories)
		payload, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if err := c.Store.Record(ctx, event.Event{
			Type: advisory.EventPublished, Resource: "advisories/" + p.Advisories[0], RequestID: r.Job.RequestID, Payload: payload,
		}); err != nil {
			return err
		}
	}
	return nil
}

// lacking names images that lack one of the advisories.
func (c *comparison) lacking(advisories []string) []string {
	out := []string{}
	for _, f := range c.findings {
		if slices.ContainsFunc(f.Pending, func(p advisory.Pending) bool { return slices.Contains(advisories, p.AdvisoryID) }) {
			out = append(out, f.ImageID)
		}
	}
	return out
}
