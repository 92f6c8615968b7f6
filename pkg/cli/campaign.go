package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	gotable "github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/upgrade/campaign"
)

// watchEvery is how often a campaign that is watched is looked at.
const watchEvery = time.Second

func campaignNoun() noun {
	return noun{name: "campaign", plural: "campaigns", about: "one upgrade over many images", key: "ID",
		columns: []string{"id", "name", "state", "counts", "promise", "reason"}}
}

func upgradePolicyNoun() noun {
	return noun{name: "upgrade-policy", plural: "upgrade_policies", path: "/v1/upgrade-policies", about: "standing policies that start campaigns when fixes appear", key: "ID",
		columns: []string{"id", "name", "enabled", "min_severity", "hotfix_hours", "hours", "campaign_id"}, deletes: true}
}

func campaignPath(id string, rest ...string) string {
	return strings.Join(append([]string{"/v1/campaigns", url.PathEscape(id)}, rest...), "/")
}

// wishFlags are the flags that campaigns and standing policies share.
type wishFlags struct {
	filter   campaign.Filter
	families []string
	wish     campaign.New
}

func (w *wishFlags) bind(f *pflag.FlagSet) {
	f.StringArrayVar(&w.families, "family", nil, "versions of this family; several times")
	f.StringArrayVar(&w.filter.ImageIDs, "image", nil, "this image, by its id; several times")
	f.StringArrayVar(&w.filter.Tags, "tag", nil, "images with this tag in Glance; several times: with all of them")
	f.StringVar(&w.filter.Visibility, "visibility", "", "public, private, shared or community images")
	f.StringVar(&w.filter.ProjectID, "project", "", "images of this project (administrators)")
	f.BoolVar(&w.filter.AllProjects, "all-projects", false, "images of every project (administrators)")
	f.StringVar(&w.filter.Distribution, "distribution", "", "for example debian")
	f.StringVar(&w.filter.Release, "release", "", "code name or number: bookworm, 12")
	f.StringVar(&w.filter.Package, "package", "", "images that have it: openssl, or 'openssl<3.0.15-1~deb12u1'")
	f.StringVar(&w.filter.CVE, "cve", "", "images that lack the fix of it")
	f.BoolVar(&w.filter.Security, "security", false, "images that lack a fix of a security suite")
	f.StringArrayVar(&w.wish.Hours, "hours", nil, "when upgrades may start, as 'Mon-Fri 20:00-06:00 Europe/Berlin'; several times; always takes them away")
	f.IntVar(&w.wish.MaxParallel, "max-parallel", 0, "upgrades at a time; 2 where left out")
	f.IntVar(&w.wish.StopAfterFailures, "stop-after-failures", 0, "stop when so many images failed; 0 does not")
	f.StringVar(&w.wish.Policy.Conffiles, "conffiles", "", "configuration files that owner and package both changed: keep, new or fail")
	f.StringVar(&w.wish.Policy.Running, "running", "", "packages whose scripts need a running system: hold, or boot (upgrade them in a quarantine boot)")
	f.BoolVar(&w.wish.Policy.Security, "security-only", false, "take fixes of security suites only")
	f.IntVar(&w.wish.Policy.GrowGiB, "grow", 0, "how far a full disk may grow, in GiB")
	f.BoolVar(&w.wish.Policy.TestBoot, "test-boot", false, "boot each new version before it is published")
}

func (w *wishFlags) read() campaign.New {
	for _, f := range w.families {
		w.filter.Families = append(w.filter.Families, catalog.FamilyName(f))
	}
	w.wish.Hours = slices.DeleteFunc(w.wish.Hours, func(h string) bool { return h == "always" })
	w.wish.Filter = w.filter
	return w.wish
}

// campaignVerbs are those beside list and show.
func (a *app) campaignVerbs() []*cobra.Command {
	return []*cobra.Command{
		a.createCampaign(), a.campaignItems(), a.campaignReport(), a.watchCampaign(),
		a.steerCampaign("approve", "Let a campaign begin that waits for approval"), a.steerCampaign("pause", "Start no further upgrades; those that run end"),
		a.steerCampaign("resume", "Go on with a paused campaign"), a.steerCampaign("cancel", "End a campaign and the upgrades that run; what was published stays"),
	}
}

func (a *app) createCampaign() *cobra.Command {
	var w wishFlags
	var dry, watch bool
	cmd := &cobra.Command{Use: "create [NAME]", Short: "Upgrade many images", Args: cobra.MaximumNArgs(1)}
	w.bind(cmd.Flags())
	cmd.Flags().StringVar(&w.filter.MinSeverity, "min-severity", "", "images that lack a fix of at least this severity: low, medium, high, critical")
	cmd.Flags().BoolVar(&w.wish.Approve, "approve", false, "wait for kiln campaign approve before it begins")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell which images it would take")
	cmd.Flags().BoolVar(&watch, "watch", false, "follow it to its end")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n := w.read()
		if len(args) == 1 {
			n.Name = args[0]
		}
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		if dry {
			var choice campaign.Choice
			if err := c.Post(cmd.Context(), "/v1/campaigns?dry_run=true", n, &choice); err != nil {
				return err
			}
			return a.showChoice(choice)
		}
		var made row
		if err := c.Post(cmd.Context(), "/v1/campaigns", n, &made); err != nil {
			return err
		}
		if watch {
			return a.watch(cmd.Context(), c, fmt.Sprint(made["id"]))
		}
		return a.show(made)
	}
	return cmd
}

func (a *app) showChoice(choice campaign.Choice) error {
	if a.format == "json" {
		return a.json(choice)
	}
	rows := make([]gotable.Row, len(choice.Taken))
	for i, p := range choice.Taken {
		version := p.Version
		if p.Family == "" {
			version = "(adopted)"
		}
		rows[i] = gotable.Row{p.ImageID, p.Name, p.Family, version, p.OS, p.Lacks, p.Severity, len(p.CVEs)}
	}
	if err := a.wide(gotable.Row{"image", "name", "family", "version", "os", "fixes", "severity", "cves"}, rows); err != nil {
		return err
	}
	for _, l := range choice.LeftOut {
		a.line("left out: %s %s: %s", l.ImageID, l.Name, l.Reason)
	}
	a.line("%d images would be upgraded; nothing was changed", len(choice.Taken))
	return nil
}

func (a *app) campaignItems() *cobra.Command {
	var state string
	cmd := &cobra.Command{Use: "items ID", Short: "List the images of a campaign", Args: cobra.ExactArgs(1)}
	cmd.Flags().StringVar(&state, "state", "", "only those in this state")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		q := url.Values{}
		if state != "" {
			q.Set("state", state)
		}
		rows, err := client.ListAt[row](cmd.Context(), c, campaignPath(args[0], "items"), "items", q)
		if err != nil {
			return err
		}
		return a.print(rows, []string{"image_id", "name", "family", "version", "state", "to_version", "reason"})
	}
	return cmd
}

func (a *app) campaignReport() *cobra.Command {
	return &cobra.Command{Use: "report ID", Short: "Tell what a campaign fixed, and what remains and why", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		var r campaign.Report
		if err := c.Get(cmd.Context(), campaignPath(args[0], "report"), &r); err != nil {
			return err
		}
		if a.format == "json" {
			return a.json(r)
		}
		return r.Text(a.out)
	}}
}

func (a *app) steerCampaign(verb, about string) *cobra.Command {
	return &cobra.Command{Use: verb + " ID", Short: about, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var v campaign.View
		return a.change(cmd, http.MethodPost, campaignPath(args[0], verb), row{}, told(&v, func() { a.line("%s", progressLine(v)) }))
	}}
}

func (a *app) watchCampaign() *cobra.Command {
	return &cobra.Command{Use: "watch ID", Short: "Follow a campaign to its end; status 1 where images failed", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		return a.watch(cmd.Context(), c, args[0])
	}}
}

// watch tells each change of a campaign until nothing of it runs any more.
func (a *app) watch(ctx context.Context, c *client.Client, id string) error {
	said := ""
	for {
		var v campaign.View
		if err := c.Get(ctx, campaignPath(id), &v); err != nil {
			return err
		}
		if line := progressLine(v); line != said && a.format != "json" {
			a.line("%s", line)
			said = line
		}
		if v.State.Final() && !v.Open {
			if a.format == "json" {
				if err := a.json(v); err != nil {
					return err
				}
			}
			if v.State != campaign.Succeeded || v.Counts.Failed > 0 {
				fmt.Fprintf(os.Stderr, "see kiln campaign report %s\n", id)
				return fmt.Errorf("campaign %s: %s, %d images failed", v.Name, v.State, v.Counts.Failed)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchEvery):
		}
	}
}

// progressLine is a campaign in one line.
func progressLine(v campaign.View) string {
	p := v.Progress
	parts := []string{fmt.Sprintf("%s: %s, %d of %d images", v.Name, v.State, p.Ended, p.Total)}
	for _, part := range []struct {
		n    int
		what string
	}{{v.Counts.Succeeded, "fixed"}, {v.Counts.Unchanged, "unchanged"}, {p.Failed, "failed"}, {v.Counts.Skipped, "skipped"}, {v.Counts.Cancelled, "cancelled"}, {p.Running, "running"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	text := strings.Join(parts, ", ")
	if p.ETA != nil {
		text += fmt.Sprintf(", %.1f an hour, ready about %s", p.PerHour, p.ETA.Local().Format("2006-01-02 15:04"))
	}
	if v.Promise != "" {
		text += ", promise " + string(v.Promise)
	}
	if v.Reason != "" {
		text += ": " + v.Reason
	}
	return text
}

// upgradePolicyVerbs are those beside list, show and delete.
func (a *app) upgradePolicyVerbs() []*cobra.Command {
	set := &cobra.Command{Use: "set ID", Short: "Change a standing policy; what no flag names stays", Args: cobra.ExactArgs(1)}
	a.policyBody(set, func(cmd *cobra.Command, args []string, body row) error {
		return a.change(cmd, http.MethodPatch, "/v1/upgrade-policies/"+url.PathEscape(args[0]), body, nil)
	})
	create := &cobra.Command{Use: "create NAME", Short: "Start campaigns when fixes of a severity appear", Args: cobra.ExactArgs(1)}
	a.policyBody(create, func(cmd *cobra.Command, args []string, body row) error {
		body["name"] = args[0]
		return a.change(cmd, http.MethodPost, "/v1/upgrade-policies", body, nil)
	})
	return []*cobra.Command{create, set, a.switchPolicy("enable", true), a.switchPolicy("disable", false)}
}

func (a *app) switchPolicy(verb string, on bool) *cobra.Command {
	return &cobra.Command{Use: verb + " ID", Short: strings.ToUpper(verb[:1]) + verb[1:] + " a standing policy", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.change(cmd, http.MethodPatch, "/v1/upgrade-policies/"+url.PathEscape(args[0]), row{"enabled": on}, nil)
	}}
}

// filterFlags and ruleFlags are the flags of wishFlags that become the filter, and the upgrade's policy, of a standing policy.
var (
	filterFlags = []string{"family", "image", "tag", "visibility", "project", "all-projects", "distribution", "release", "package", "cve", "security"}
	ruleFlags   = []string{"conffiles", "running", "security-only", "grow", "test-boot"}
)

func (a *app) policyBody(cmd *cobra.Command, send func(cmd *cobra.Command, args []string, body row) error) {
	var w wishFlags
	var severity string
	var hotfix int
	w.bind(cmd.Flags())
	cmd.Flags().StringVar(&severity, "min-severity", "", "fixes of at least this severity: low, medium, high (the default), critical")
	cmd.Flags().IntVar(&hotfix, "hotfix-hours", 0, "hours from an advisory to the last image with its fix; 0 promises nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, body := w.read(), row{}
		changed := func(flags ...string) bool {
			for _, f := range flags {
				if cmd.Flags().Changed(f) {
					return true
				}
			}
			return false
		}
		for _, part := range []struct {
			flags []string
			json  string
			value any
		}{
			{filterFlags, "filter", n.Filter}, {ruleFlags, "policy", n.Policy}, {[]string{"hours"}, "hours", n.Hours}, {[]string{"max-parallel"}, "max_parallel", n.MaxParallel},
			{[]string{"stop-after-failures"}, "stop_after_failures", n.StopAfterFailures}, {[]string{"min-severity"}, "min_severity", severity}, {[]string{"hotfix-hours"}, "hotfix_hours", hotfix},
		} {
			if changed(part.flags...) {
				body[part.json] = part.value
			}
		}
		return send(cmd, args, body)
	}
}

// adopt makes an image that somebody uploaded the first version of a family.
func (a *app) adopt() *cobra.Command {
	var family string
	cmd := &cobra.Command{Use: "adopt ID", Short: "Make an uploaded image the first version of a family; its bytes stay as they are", Args: cobra.ExactArgs(1)}
	cmd.Flags().StringVar(&family, "family", "", "name of the family; made of the image's where left out")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := row{}
		if family != "" {
			body["family"] = family
		}
		return a.change(cmd, http.MethodPost, "/v1/images/"+url.PathEscape(args[0])+"/adopt", body, nil)
	}
	return cmd
}
