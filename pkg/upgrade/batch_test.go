package upgrade_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// change is "name from to", with the names that it needs.
func change(text string, needs ...string) upgrade.PlannedChange {
	w := strings.Fields(text)
	c := upgrade.PlannedChange{PackageRef: upgrade.PackageRef{Name: w[0], Architecture: "amd64", From: w[1], To: w[2]}}
	for _, n := range needs {
		c.Needs = append(c.Needs, n+":amd64")
	}
	return c
}

func plan(id string, changes ...upgrade.PlannedChange) upgrade.Plan {
	return upgrade.Plan{ImageID: id, Release: "bookworm", Architecture: "amd64", Changes: changes}
}

// shared is a batch as "images: packages".
func shared(bs []upgrade.Batch) []string {
	out := []string{}
	for _, b := range bs {
		var names []string
		for _, r := range b.Share {
			names = append(names, r.Name)
		}
		out = append(out, strings.Join(b.ImageIDs, " ")+": "+strings.Join(names, " "))
	}
	return out
}

// TestCopiesOfDifferentImagesShareToo: many equal plans of each kind do not keep the kinds apart.
func TestCopiesOfDifferentImagesShareToo(t *testing.T) {
	var common []upgrade.PlannedChange
	for i := range 20 {
		common = append(common, change(fmt.Sprintf("common-%02d 1 2", i)))
	}
	var plans []upgrade.Plan
	for kind := range 5 {
		own := slices.Clone(common)
		for i := range 15 {
			own = append(own, change(fmt.Sprintf("own-%d-%02d 1 2", kind, i)))
		}
		for i := range 10 {
			plans = append(plans, plan(fmt.Sprintf("%d-%02d", kind, i), own...))
		}
	}
	bs := upgrade.Batches(plans)
	if len(bs) != 1 || len(bs[0].Share) != 20 || len(bs[0].Parts) != 5 {
		t.Fatalf("%d batches; %v", len(bs), shared(bs))
	}
	if got := bs[0].Saved(); got != 20*49+5*15*9 {
		t.Errorf("%d changes saved", got)
	}
}

func TestImagesShareWhatAllOfThemHave(t *testing.T) {
	libc, ssl, web, sql := change("libc6 1 2"), change("openssl 1 2"), change("nginx 1 2"), change("postgresql-common 1 2")
	running := upgrade.PlannedChange{PackageRef: upgrade.PackageRef{Name: "db", From: "1", To: "2"}, Script: upgrade.ScriptRunning}
	other := plan("d", libc, ssl)
	other.Release = "trixie"
	refused := plan("e", libc, ssl)
	refused.Refused = "its packages do not fit together"
	for name, c := range map[string]struct {
		plans []upgrade.Plan
		want  []string
	}{
		"equal plans":       {[]upgrade.Plan{plan("b", libc, ssl), plan("a", ssl, libc)}, []string{"a b: libc6 openssl"}},
		"the common part":   {[]upgrade.Plan{plan("a", libc, ssl, web), plan("b", libc, ssl, sql)}, []string{"a b: libc6 openssl"}},
		"nothing in common": {[]upgrade.Plan{plan("a", web), plan("b", sql)}, []string{"a: ", "b: "}},
		"another version":   {[]upgrade.Plan{plan("a", change("nginx 1 2")), plan("b", change("nginx 0 2"))}, []string{"a: ", "b: "}},
		"another release":   {[]upgrade.Plan{plan("a", libc), other, refused, plan("f")}, []string{"a: ", "d: "}},
		"needs a system":    {[]upgrade.Plan{plan("a", libc, running), plan("b", libc, running)}, []string{"a b: libc6"}},
		// redis-server depends on redis-tools (= version): the tools alone would leave the second image's server behind.
		"needed by a package of one": {
			[]upgrade.Plan{plan("a", libc, change("redis-tools 1 2")), plan("b", libc, change("redis-tools 1 2", "redis-server"), change("redis-server 1 2", "redis-tools"))},
			[]string{"a b: libc6"},
		},
		"needed by each other": {
			[]upgrade.Plan{plan("a", libc, change("x 1 2", "y"), change("y 1 2", "x")), plan("b", libc, change("x 1 2", "y"), change("y 1 2", "x"), web)},
			[]string{"a b: libc6 x y"},
		},
		"two kinds": {
			[]upgrade.Plan{plan("a", libc, ssl, web), plan("b", libc, ssl, web), plan("c", libc, sql), plan("d", libc, sql, ssl), plan("e", change("libc6 0 2"))},
			[]string{"a b: libc6 nginx openssl", "c d: libc6 postgresql-common", "e: "},
		},
	} {
		if diff := cmp.Diff(c.want, shared(upgrade.Batches(c.plans))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestPartsShareWhatNotAllHave: what most images of a batch have beside the rest is a part of it, if many enough have it.
func TestPartsShareWhatNotAllHave(t *testing.T) {
	libc, mod := change("libc6 1 2"), change("mod-php 1 2", "php-1")
	libc.Bytes = 40 << 20
	var php []upgrade.PlannedChange
	for i := range 6 {
		php = append(php, change(fmt.Sprintf("php-%d 1 2", i), "libc6", "php-0"))
	}
	php[1].Needs = append(php[1].Needs, "mod-php:amd64") // where there is one
	var plans []upgrade.Plan
	for i := range 6 {
		plans = append(plans, plan(fmt.Sprintf("i%d", i), append([]upgrade.PlannedChange{libc, change(fmt.Sprintf("own-%d 1 2", i))}, php...)...))
	}
	plans = append(plans, plan("apache", append([]upgrade.PlannedChange{libc, mod}, php...)...), plan("bare", libc), plan("bare2", libc))
	bs := upgrade.Batches(plans)
	if len(bs) != 1 || len(bs[0].Parts) != 1 {
		t.Fatalf("%+v", bs)
	}
	if diff := cmp.Diff([]string{"apache bare bare2 i0 i1 i2 i3 i4 i5: libc6"}, shared(bs)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"i0 i1 i2 i3 i4 i5: php-0 php-1 php-2 php-3 php-4 php-5"}, shared(bs[0].Parts)); diff != "" {
		t.Error(diff)
	}
	if got := bs[0].Saved(); got != 8+6*5 {
		t.Errorf("%d changes saved", got)
	}
	for id, want := range map[string]int{"i3": 2, "apache": 1, "bare": 1, "another": 0} {
		if got := bs[0].Shares(id); len(got) != want {
			t.Errorf("%s: %v", id, got)
		}
	}
}

// TestScriptsOfOneSourceGoTogether: the server's scripts and the client's look at each other.
func TestScriptsOfOneSourceGoTogether(t *testing.T) {
	of := func(source string, script upgrade.Script, text string) upgrade.PlannedChange {
		c := change(text)
		c.Source, c.Script = source, script
		return c
	}
	libc, library := change("libc6 1 2"), of("sql", upgrade.ScriptNone, "libsql 1 2")
	client, server := of("sql", upgrade.ScriptSafe, "sql-client 1 2"), of("sql", upgrade.ScriptSafe, "sql-server 1 2")
	for name, c := range map[string]struct {
		plans []upgrade.Plan
		want  []string
	}{
		"all have the server": {[]upgrade.Plan{plan("a", libc, client, server), plan("b", libc, client, server, library)}, []string{"a b: libc6 sql-client sql-server"}},
		"one has it":          {[]upgrade.Plan{plan("a", libc, client, library), plan("b", libc, client, library, server)}, []string{"a b: libc6 libsql"}},
	} {
		if diff := cmp.Diff(c.want, shared(upgrade.Batches(c.plans))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// savedByEqual is what one batch for each set of equal plans would save.
func savedByEqual(plans []upgrade.Plan) int64 {
	seen := map[string]bool{}
	var sum int64
	for _, p := range plans {
		key := fmt.Sprint(p.Release, p.Changes)
		for _, c := range p.Changes {
			if seen[key] {
				sum += 1 + c.Bytes>>20
			}
		}
		seen[key] = true
	}
	return sum
}

// anyPlans draws plans of few packages, so that they have much in common.
func anyPlans(t *rapid.T) []upgrade.Plan {
	names := []string{"a", "b", "c", "d", "e", "f"}
	var out []upgrade.Plan
	for i := range rapid.IntRange(0, 12).Draw(t, "images") {
		p := upgrade.Plan{ImageID: fmt.Sprintf("image-%02d", i), Release: rapid.SampledFrom([]string{"bookworm", "trixie"}).Draw(t, "release"), Architecture: "amd64"}
		for _, n := range names {
			if rapid.Bool().Draw(t, "has") {
				c := change(n+" "+rapid.SampledFrom([]string{"1", "1", "1", "0"}).Draw(t, "from")+" 2", rapid.SliceOfN(rapid.SampledFrom(names), 0, 1).Draw(t, "needs")...)
				c.Bytes = int64(n[0]%5) << 20
				p.Changes = append(p.Changes, c)
			}
		}
		out = append(out, p)
	}
	return out
}

// saved is what batches save: the weight of what they share for all images but one, and of the rest of three and more equal plans.
func saved(plans []upgrade.Plan, bs []upgrade.Batch) int64 {
	equal := map[string]int{}
	for _, p := range plans {
		equal[fmt.Sprint(p.Release, p.Changes)]++
	}
	var sum int64
	for _, b := range bs {
		seen := map[string]bool{}
		for _, id := range b.ImageIDs {
			p := plans[slices.IndexFunc(plans, func(p upgrade.Plan) bool { return p.ImageID == id })]
			key := fmt.Sprint(p.Release, p.Changes)
			for _, c := range p.Changes {
				if shared := slices.Contains(b.Share, c.PackageRef); shared && id != b.ImageIDs[0] || !shared && equal[key] > 2 && seen[key] {
					sum += 1 + c.Bytes>>20
				}
			}
			seen[key] = true
		}
	}
	return sum
}

func TestBatchesKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plans := anyPlans(t)
		bs := upgrade.Batches(plans)
		seen := map[string]bool{}
		for _, b := range bs {
			for _, id := range b.ImageIDs {
				if seen[id] {
					t.Fatalf("%s is in two batches", id)
				}
				seen[id] = true
				p := plans[slices.IndexFunc(plans, func(p upgrade.Plan) bool { return p.ImageID == id })]
				if p.Release != b.Release || p.Architecture != b.Architecture {
					t.Fatalf("%s of %s is in a batch of %s", id, p.Release, b.Release)
				}
				closed(t, p, b.Share)
				for i, shares := 0, b.Shares(id); i < len(shares); i++ {
					closed(t, p, slices.Concat(shares[:i+1]...))
				}
			}
			if len(b.ImageIDs) == 1 && len(b.Share) > 0 {
				t.Fatalf("%v shares with nobody", b)
			}
		}
		for _, p := range plans {
			if seen[p.ImageID] != (len(p.Changes) > 0) {
				t.Fatalf("%s with %d changes: in a batch: %t", p.ImageID, len(p.Changes), seen[p.ImageID])
			}
		}
		shuffled := rapid.Permutation(plans).Draw(t, "order")
		if diff := cmp.Diff(bs, upgrade.Batches(shuffled)); diff != "" {
			t.Fatalf("another order, other batches: %s", diff)
		}
		if got, want := saved(plans, bs), savedByEqual(plans); got < want {
			t.Fatalf("the batches save %d, one for each set of equal plans would save %d", got, want)
		}
	})
}

// closed fails where an image has not all of the share, or where the share alone would leave unmet dependencies.
func closed(t *rapid.T, p upgrade.Plan, share []upgrade.PackageRef) {
	done := map[string]bool{}
	for _, r := range share {
		if !slices.Contains(p.Refs(), r) {
			t.Fatalf("%s does not have %v", p.ImageID, r)
		}
		done[r.ID()] = true
	}
	for _, c := range p.Changes {
		for _, n := range c.Needs {
			planned := slices.ContainsFunc(p.Changes, func(o upgrade.PlannedChange) bool { return o.ID() == n })
			if done[c.ID()] && planned && !done[n] {
				t.Fatalf("%s: %s is shared without %s", p.ImageID, c.ID(), n)
			}
		}
	}
}
