package functional

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/openstack/placement"
	domain "github.com/kiln-cloud/kiln/pkg/placement"
)

// operations is how many creates and deletes TestRealLedger makes, from hands goroutines.
const (
	operations = 50
	hands      = 4
)

func TestRealLedger(t *testing.T) {
	s := kiln(t)
	cluster := s.fakeCluster(t)
	image := s.uploaded(t, "other", make([]byte, 1<<20))
	user := s.as(t, "other")
	crowd := &crowd{t: t, api: user, image: image.ID, cluster: cluster, tokens: make(chan int, operations)}
	for i := range operations {
		crowd.tokens <- i
	}
	close(crowd.tokens)
	var wg sync.WaitGroup
	for range hands {
		wg.Go(crowd.work)
	}
	// In the middle, with placements under way, the only engine dies; the next one finds what it had begun.
	err := until(t.Context(), 2*time.Minute, "half of the operations are asked for", func(context.Context) (bool, error) {
		return len(crowd.tokens) < operations/2, nil
	})
	if err == nil {
		err = s.kill("engine")
	}
	if err == nil {
		time.Sleep(500 * time.Millisecond)
		err = s.again("engine")
	}
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	live := crowd.settle()
	t.Logf("%d workloads are active, %d were deleted", len(live), crowd.deleted)
	s.compareLedger(t, live)

	for _, w := range live {
		crowd.remove(w.ID)
	}
	for id := range crowd.jobs {
		finished(t, user, crowd.jobs[id])
	}
	s.compareLedger(t, nil)
}

// crowd is several users that create and delete at the same time.
type crowd struct {
	t              *testing.T
	api            *client.Client
	image, cluster string
	tokens         chan int

	mu      sync.Mutex
	jobs    map[string]string // newest job by workload
	deleted int
}

func (c *crowd) note(workload, job string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jobs == nil {
		c.jobs = map[string]string{}
	}
	c.jobs[workload] = job
}

// work creates twice as often as it deletes; it deletes what it made itself, often while that is still being placed.
func (c *crowd) work() {
	var mine []string
	for n := range c.tokens {
		if len(mine) > 0 && rand.N(3) == 0 {
			i := rand.N(len(mine))
			c.remove(mine[i])
			mine = append(mine[:i], mine[i+1:]...)
			c.mu.Lock()
			c.deleted++
			c.mu.Unlock()
			continue
		}
		var w domain.Workload
		err := c.api.Post(c.t.Context(), "/v1/workloads", domain.NewWorkload{
			Name: fmt.Sprintf("crowd-%d", n), Kind: domain.VM, ImageID: c.image, Flavor: "kiln.tiny", Cluster: c.cluster,
		}, &w)
		if err != nil {
			c.t.Errorf("create: %v", err)
			return
		}
		c.note(w.ID, w.JobID)
		mine = append(mine, w.ID)
		time.Sleep(time.Duration(rand.N(200)) * time.Millisecond)
	}
}

// remove deletes a workload; where a job works on it, the API may say so, and it is asked again.
func (c *crowd) remove(id string) {
	err := until(c.t.Context(), time.Minute, "workload "+id+" may be deleted", func(ctx context.Context) (bool, error) {
		var w domain.Workload
		err := c.api.Delete(ctx, "/v1/workloads/"+id, &w)
		if e, ok := errors.AsType[*client.Error](err); ok && e.Status == http.StatusConflict {
			time.Sleep(200 * time.Millisecond)
			return false, nil
		}
		if err == nil {
			c.note(id, w.JobID)
		}
		return err == nil, err
	})
	if err != nil {
		c.t.Errorf("delete: %v", err)
	}
}

// settle waits until no job is open and returns what is active. Nothing may have failed: there is room for all.
func (c *crowd) settle() []domain.Workload {
	for id, job := range c.jobs {
		if _, err := c.api.WaitJob(c.t.Context(), job, 100*time.Millisecond, nil); err != nil {
			c.t.Errorf("workload %s: %v", id, err)
		}
	}
	all, err := client.List[domain.Workload](c.t.Context(), c.api, "workloads", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	var live []domain.Workload
	for _, w := range all {
		switch w.State {
		case domain.Active:
			live = append(live, w)
		case domain.Deleted:
		default:
			c.t.Errorf("workload %s (%s) is %s: %s", w.ID, w.Name, w.State, w.Error)
		}
	}
	return live
}

// compareLedger holds Kiln's ledger, Nova and Placement against each other: the same consumers with the same amounts.
func (s *stand) compareLedger(t *testing.T, live []domain.Workload) {
	t.Helper()
	want := map[string]domain.Workload{} // by workload
	for _, w := range live {
		want[w.ID] = w
	}
	open := map[string]domain.Claim{} // by consumer
	for _, state := range []domain.ClaimState{domain.ClaimHeld, domain.ClaimConfirmed} {
		claims, err := client.ListAt[domain.Claim](t.Context(), s.as(t, "admin"), "/v1/ledger", "claims", map[string][]string{"state": {string(state)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range claims {
			if w, ours := want[c.WorkloadID]; ours && (state != domain.ClaimConfirmed || c.ConsumerID != w.ExternalID || c.Node != w.Node) {
				t.Errorf("claim %+v of workload %+v", c, w)
			}
			open[c.ConsumerID] = c
		}
	}
	servers, err := s.servers(t.Context(), s.other)
	if err != nil {
		t.Fatal(err)
	}
	inNova := map[string]bool{}
	for _, v := range servers {
		inNova[v.ID] = true
		key := v.Metadata[domain.KeyWorkload]
		if w, ok := want[key]; !ok || w.ExternalID != v.ID || v.Status != "ACTIVE" {
			t.Errorf("Nova has server %s (%s) with the key %q, which Kiln does not call active", v.ID, v.Status, key)
		}
	}
	providers := placement.New(s.admin)
	var sum domain.Resources
	for _, w := range live {
		held, err := providers.Allocation(t.Context(), w.ExternalID)
		c, there := open[w.ExternalID]
		if err != nil || !there || !inNova[w.ExternalID] || len(held) != 1 || held[c.ProviderID] != c.Resources {
			t.Errorf("workload %s: in the ledger %+v, in Placement %+v, in Nova %t, error %v", w.ID, c, held, inNova[w.ExternalID], err)
		}
		sum = sum.Add(c.Resources)
	}
	// The other way round: Placement counts no more for the project than the ledger does.
	var usage struct {
		Usages map[string]map[string]int64
	}
	if err := s.resources.Get(t.Context(), "usages", "usages", map[string][]string{"project_id": {s.other}}, &usage); err != nil {
		t.Fatal(err)
	}
	var used domain.Resources
	for _, kind := range usage.Usages {
		used = used.Add(domain.Resources{VCPUs: kind["VCPU"], MemoryMB: kind["MEMORY_MB"], DiskGB: kind["DISK_GB"]})
	}
	if used != sum {
		t.Errorf("the project holds %+v in Placement, %+v in the ledger", used, sum)
	}
	if len(servers) != len(live) {
		t.Errorf("Nova has %d servers, Kiln %d", len(servers), len(live))
	}
}
