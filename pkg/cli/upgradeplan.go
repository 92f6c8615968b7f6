package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/demo"
	"github.com/kiln-cloud/kiln/pkg/job"
	"github.com/kiln-cloud/kiln/pkg/upgrade"
)

// planRequest is the body of POST /v1/upgrades/plan.
type planRequest struct {
	ImageIDs []string           `json:"image_ids,omitempty"`
	Family   catalog.FamilyName `json:"family,omitempty"`
	Channel  string             `json:"channel,omitempty"`
	All      bool               `json:"all,omitempty"`
	Policy   upgrade.Policy     `json:"policy"`
}

// planUpgrades shows what upgrades of images would do; no image is changed.
func (a *app) planUpgrades() *cobra.Command {
	var body planRequest
	var details bool
	cmd := &cobra.Command{Use: "plan", Short: "Show what upgrades of images would change; no image is changed", Args: cobra.NoArgs}
	f := cmd.Flags()
	f.StringVarP(&a.format, "output", "o", a.format, "the same as --format")
	f.StringArrayVar(&body.ImageIDs, "image-id", nil, "Glance image; several times")
	f.StringVar((*string)(&body.Family), "family", "", "or family")
	f.StringVar(&body.Channel, "channel", "", "and channel or version")
	f.BoolVar(&body.All, "all", false, "or every image of the project")
	f.BoolVar(&body.Policy.Security, "security", false, "fixes of security suites only")
	f.StringVar(&body.Policy.Running, "running", "", "packages whose scripts need a running system: hold (left out: this) or boot (in quarantine)")
	f.BoolVar(&details, "details", false, "every change of every image, also where there are many")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		var j job.Job
		if err := c.Post(cmd.Context(), "/v1/upgrades/plan", body, &j); err != nil {
			return err
		}
		screen := demo.NewScreen(os.Stderr)
		screen.Begin("plan upgrades")
		if j, err = c.WaitJob(cmd.Context(), j.ID, 300*time.Millisecond, screen.Job); err != nil {
			screen.End("failed")
			return err
		}
		screen.End("done")
		plans, names, err := plansOf(cmd, c, j)
		if err != nil {
			return err
		}
		return a.writePlans(plans, names, details || len(plans) == 1)
	}
	return cmd
}

// plansOf reads the plans that a job made, and the names of their images.
func plansOf(cmd *cobra.Command, c *client.Client, j job.Job) ([]upgrade.Plan, map[string]string, error) {
	var made struct {
		ImageIDs []string `json:"image_ids"`
	}
	if err := json.Unmarshal(j.Result, &made); err != nil {
		return nil, nil, fmt.Errorf("the job's result names no images: %s", j.Result)
	}
	names := map[string]string{}
	if len(made.ImageIDs) == 1 {
		var p upgrade.Plan
		var i catalog.Image
		path := "/v1/images/" + url.PathEscape(made.ImageIDs[0])
		if err := c.Get(cmd.Context(), path+"/plan", &p); err != nil {
			return nil, nil, err
		}
		err := c.Get(cmd.Context(), path, &i)
		names[i.ID] = i.Name
		return []upgrade.Plan{p}, names, err
	}
	all, err := client.ListAt[upgrade.Plan](cmd.Context(), c, "/v1/upgrades/plans", "plans", nil)
	if err != nil {
		return nil, nil, err
	}
	images, err := client.List[catalog.Image](cmd.Context(), c, "images", nil)
	for _, i := range images {
		names[i.ID] = i.Name
	}
	all = slices.DeleteFunc(all, func(p upgrade.Plan) bool { return !slices.Contains(made.ImageIDs, p.ImageID) })
	slices.SortFunc(all, func(a, b upgrade.Plan) int {
		return cmp.Or(cmp.Compare(names[a.ImageID], names[b.ImageID]), cmp.Compare(a.ImageID, b.ImageID))
	})
	return all, names, err
}

func (a *app) writePlans(plans []upgrade.Plan, names map[string]string, details bool) error {
	if a.format == "json" {
		return a.json(plans)
	}
	if details {
		for _, p := range plans {
			if err := a.writeChanges(p, names[p.ImageID]); err != nil {
				return err
			}
		}
	}
	rows := make([]row, len(plans))
	for i, p := range plans {
		rows[i] = row{
			"image": cmp.Or(names[p.ImageID], p.ImageID), "release": p.Release, "changes": len(p.Changes), "cves": len(p.CVEs), "download": human(p.Download), "grows": human(p.Grows),
			"kernel": yes(p.Kernel), "boot_loader": yes(p.BootLoader), "held": len(p.Held), "refused": p.Refused,
		}
	}
	if err := a.print(rows, []string{"image", "release", "changes", "cves", "download", "grows", "kernel", "boot_loader", "held", "refused"}); err != nil {
		return err
	}
	return a.writeTotals(plans)
}

// writeChanges lists what would happen to one image, and what would not.
func (a *app) writeChanges(p upgrade.Plan, name string) error {
	if _, err := fmt.Fprintf(a.out, "%s (%s)\n", cmp.Or(name, p.ImageID), p.ImageID); err != nil {
		return err
	}
	rows := make([]row, len(p.Changes))
	for i, c := range p.Changes {
		rows[i] = row{
			"package": c.Name + ":" + c.Architecture, "from": cmp.Or(c.From, "(new)"), "to": cmp.Or(c.To, "(removed)"), "suite": c.Suite, "cves": strings.Join(shortened(c.CVEs), " "),
			"size": human(c.Bytes), "scripts": string(c.Script),
		}
	}
	if len(rows) > 0 {
		if err := a.print(rows, []string{"package", "from", "to", "suite", "cves", "size", "scripts"}); err != nil {
			return err
		}
	}
	for _, h := range p.Held {
		if _, err := fmt.Fprintf(a.out, "held: %s stays %s although %s is published: %s\n", h.Name, h.Version, h.To, h.Reason); err != nil {
			return err
		}
	}
	return nil
}

// shortened names the first CVEs and counts the rest: a kernel has hundreds.
func shortened(cves []string) []string {
	const most = 2
	if len(cves) <= most {
		return cves
	}
	return append(slices.Clone(cves[:most]), fmt.Sprintf("+%d", len(cves)-most))
}

func (a *app) writeTotals(plans []upgrade.Plan) error {
	var changes, held, refused, kernels, running int
	var download int64
	cves := map[string]bool{}
	files := map[string]bool{}
	for _, p := range plans {
		changes, held = changes+len(p.Changes), held+len(p.Held)
		if p.Refused != "" {
			refused++
		}
		if p.Kernel {
			kernels++
		}
		for _, id := range p.CVEs {
			cves[id] = true
		}
		for _, c := range p.Changes {
			if c.Script == upgrade.ScriptRunning {
				running++
			}
			if !files[c.SHA256] {
				files[c.SHA256] = true
				download += c.Bytes
			}
		}
	}
	shared := 0
	batches := upgrade.Batches(plans)
	for _, b := range batches {
		shared += b.Saved()
	}
	_, err := fmt.Fprintf(a.out, "images: %d; changes: %d; CVEs closed: %d; %s to fetch once; new kernels: %d; held: %d; need a running system: %d; images refused: %d\n"+
		"batches: %d; %d of %d changes need not be made by the package manager again\n",
		len(plans), changes, len(cves), human(download), kernels, held, running, refused, len(batches), shared, changes)
	return err
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// human writes bytes with decimal units, as apt does.
func human(n int64) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	for _, u := range []struct {
		size int64
		name string
	}{{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if n >= u.size {
			return fmt.Sprintf("%s%.1f %s", sign, float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%s%d B", sign, n)
}
