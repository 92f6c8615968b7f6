package demo

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/kiln-cloud/kiln/pkg/cache"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/placement"
)

// bootTime bounds how long a guest may take to tell its packages; emulated processors are slow.
const bootTime = 5 * time.Minute

func (s *Story) vm(ctx context.Context, o *Outcome) error {
	before := s.Downloads(o.To.ImageID)
	w, err := s.place(ctx, placement.NewWorkload{
		Name: "demo-vm", Kind: placement.VM, Family: o.Build.Family, Channel: catalog.Stable, Flavor: s.Flavor, Cluster: s.Cluster, Node: s.Node,
	})
	o.VM = w
	if err != nil {
		return err
	}
	o.Downloads = s.Downloads(o.To.ImageID) - before
	if !s.Boots {
		s.Screen.End("%s on %s (no QEMU here: the VM is a record)", w.ExternalID, w.Node)
		return nil
	}
	if o.Lines, err = s.console(ctx, w.ExternalID, o); err != nil {
		return err
	}
	s.Screen.End("%s on %s tells: %s", w.ExternalID, w.Node, strings.Join(o.Lines, "; "))
	return nil
}

// place removes what an earlier run left under the name, and starts the workload.
func (s *Story) place(ctx context.Context, n placement.NewWorkload) (placement.Workload, error) {
	var w placement.Workload
	old, err := client.List[placement.Workload](ctx, s.Member, "workloads", url.Values{"name": {n.Name}})
	if err != nil {
		return w, err
	}
	for _, v := range old {
		if v.State == placement.Deleted {
			continue
		}
		if err := s.Member.Delete(ctx, "/v1/workloads/"+v.ID, &v); err != nil {
			return w, err
		}
		if err := s.wait(ctx, s.Member, v.JobID); err != nil {
			return w, err
		}
	}
	if err := s.Member.Post(ctx, "/v1/workloads", n, &w); err != nil {
		return w, err
	}
	if err := s.wait(ctx, s.Member, w.JobID); err != nil {
		return w, err
	}
	return w, s.Member.Get(ctx, "/v1/workloads/"+w.ID, &w)
}

// console waits until the guest has told its packages, and returns its lines about those that were upgraded. A line
// with an old version, or no line at all, is a failure.
func (s *Story) console(ctx context.Context, server string, o *Outcome) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	began := time.Now()
	for {
		text, err := s.Console(ctx, server)
		if err == nil && strings.Contains(text, "kiln-ready") {
			return Told(text, o)
		}
		s.Screen.Note("waiting for the guest, %ds", int(time.Since(began).Seconds()))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the guest told nothing within %s; its console ends with:\n%s", bootTime, tail(text, 15))
		case <-time.After(time.Second):
		}
	}
}

// Told finds what a guest said of the upgraded packages on its console: each must have its new version.
func Told(console string, o *Outcome) ([]string, error) {
	seen := map[string]string{}
	kernel := ""
	for line := range strings.SplitSeq(console, "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "kiln-package":
			seen[words[1]] = words[2]
		case len(words) == 2 && words[0] == "kiln-kernel":
			kernel = words[1]
		}
	}
	var lines []string
	checked := 0
	for _, p := range o.Report.Packages {
		have, told := seen[p.Name]
		switch {
		case p.To == "" || p.From == "" && !told:
			continue // removed, or new and not told of
		case have != p.To:
			return nil, fmt.Errorf("the guest has %s %q, the upgrade made it %s", p.Name, have, p.To)
		}
		checked++
		if p.From != "" && len(lines) < 2 {
			lines = append(lines, fmt.Sprintf("%s %s (was %s)", p.Name, p.To, p.From))
		}
	}
	if len(o.Report.Packages) > 0 && checked == 0 {
		return nil, errors.New("the guest told of none of the upgraded packages")
	}
	if o.Report.KernelTo != "" && kernel != o.Report.KernelTo {
		return nil, fmt.Errorf("the guest runs kernel %q, the upgrade brought %s", kernel, o.Report.KernelTo)
	}
	return append(lines, "kernel "+kernel, fmt.Sprintf("%d upgraded packages checked", checked)), nil
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (s *Story) container(ctx context.Context, o *Outcome) error {
	if s.Container == "" {
		s.Screen.End("this cloud has no Zun")
		return nil
	}
	w, err := s.place(ctx, placement.NewWorkload{
		Name: "demo-container", Kind: placement.Container, ImageRef: s.Container, Cluster: s.Cluster,
		Resources: placement.Resources{VCPUs: 1, MemoryMB: 128},
	})
	if err != nil {
		return err
	}
	o.Container = &w
	s.Screen.End("%s on %s", w.ExternalID, w.Node)
	return nil
}

// ledger holds every confirmed claim of the ledger against what Placement says.
func (s *Story) ledger(ctx context.Context, _ *Outcome) error {
	claims, err := client.ListAt[placement.Claim](ctx, s.Admin, "/v1/ledger", "claims", url.Values{"state": {string(placement.ClaimConfirmed)}})
	if err != nil {
		return err
	}
	for _, c := range claims {
		held, err := s.Held(ctx, c.ConsumerID)
		if err != nil {
			return err
		}
		if held[c.ProviderID] != c.Resources {
			return fmt.Errorf("the ledger says that %s holds %+v on %s, Placement says %+v", c.ConsumerID, c.Resources, c.Node, held[c.ProviderID])
		}
	}
	s.Screen.End("%d claims, all equal", len(claims))
	return nil
}

// Moved is how many bytes the copies have.
func (o *Outcome) Moved() int64 {
	var sum int64
	for _, c := range o.Copies {
		if c.State == cache.CopyVerified {
			sum += c.Bytes
		}
	}
	return sum
}
