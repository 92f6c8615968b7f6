package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// zunFloor is how many recorded samples have to be replayed at least.
const zunFloor = 183

// TestZunSamples sends every recorded request to the pocket Zun in the state in which it was recorded, and holds
// the answer against the recorded one: status, headers, set of keys, types, and every value that is not an id, a
// time or a number of the laboratory's machine.
func TestZunSamples(t *testing.T) {
	samples, containers := zunSamples(t)
	cases := zunCases()
	for name := range maps.Keys(cases) {
		if _, known := samples[name]; !known {
			t.Errorf("a case for %q, which is no sample", name)
		}
	}
	replayed := 0
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		if reason := zunNotReplayed[name]; reason != "" {
			t.Logf("not replayed: %s: %s", name, reason)
			continue
		}
		replayed++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replayZun(t, samples[name], cases[name], containers)
		})
	}
	t.Logf("replayed %d of %d recorded Zun samples", replayed, len(samples))
	if replayed < zunFloor {
		t.Errorf("only %d samples were replayed, at least %d are wanted", replayed, zunFloor)
	}
}

func replayZun(t *testing.T, sample zunSample, state zunCase, containers map[string]map[string]any) {
	t.Helper()
	lab := newZunLab(t, containers, state.options)
	if state.prepare != nil {
		state.prepare(lab)
	}
	projectOf(lab)
	resp, body := lab.call(sample.As, sample.Request.Method, lab.replace(sample.Request.Path), sample.Request.Headers, sample.Request.Body)
	if resp.StatusCode != sample.Response.Status {
		t.Fatalf("%s %s: status %d, recorded %d\nbody: %v", sample.Request.Method, sample.Request.Path, resp.StatusCode, sample.Response.Status, body)
	}
	for name, want := range sample.Response.Headers {
		got := resp.Header.Get(name)
		if name == "X-Openstack-Request-Id" || name == "Location" || name == "Www-Authenticate" {
			if got == "" {
				t.Errorf("header %s is missing", name)
			}
		} else if got != want {
			t.Errorf("header %s is %q, recorded %q", name, got, want)
		}
	}
	for _, name := range []string{"Openstack-Api-Version", "Openstack-Api-Minimum-Version", "X-Openstack-Request-Id", "Location"} {
		if sample.Response.Headers[name] == "" && resp.Header.Get(name) != "" {
			t.Errorf("header %s is %q, recorded without", name, resp.Header.Get(name))
		}
	}
	for _, difference := range (&comparison{lab: lab, status: sample.Response.Status}).compare("body", "", sample.Response.Body, body) {
		t.Error(difference)
	}
}

// comparison holds two JSON values against each other.
type comparison struct {
	lab    *zunLab
	status int
}

// volatile are the keys whose values belong to the laboratory's machine or moment; their types have to agree.
var volatile = strings.Fields(`uuid href project_id user_id created_at updated_at request_id start_time finish_time hostname addr port
	traceback kernel_version mem_total mem_used cpus cpu_used disk_total disk_used total_containers report_count last_seen_up id image_id
	repo tag size next Processes net_id port_id ip_address subnet_id output os`)

// loose are volatile ones that may be null or text by the second.
var loose = []string{"status_detail", "MEM USAGE(MiB)", "CPU %", "MEM %", "runtimes", "updated_at"}

func (c *comparison) compare(path, key string, want, got any) []string {
	if slices.Contains(loose, key) {
		return nil
	}
	if kind(want) != kind(got) {
		return []string{fmt.Sprintf("%s is %v (%s), recorded %v (%s)", path, got, kind(got), want, kind(want))}
	}
	if slices.Contains(volatile, key) {
		return nil
	}
	switch want := want.(type) {
	case map[string]any:
		own, _ := got.(map[string]any)
		if key == "addresses" { // keyed by network: compare the first one
			return c.compare(path+".*", "", first(want), first(own))
		}
		return c.objects(path, want, own)
	case []any:
		own, _ := got.([]any)
		return c.arrays(path, key, want, own)
	case string:
		return c.texts(path, key, want, fmt.Sprint(got))
	}
	if want != got {
		return []string{fmt.Sprintf("%s is %v, recorded %v", path, got, want)}
	}
	return nil
}

func first(object map[string]any) any {
	for _, value := range object {
		return value
	}
	return nil
}

func (c *comparison) objects(path string, want, got map[string]any) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if _, given := got[key]; !given {
			out = append(out, fmt.Sprintf("%s.%s is missing", path, key))
			continue
		}
		out = append(out, c.compare(path+"."+key, key, want[key], got[key])...)
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, given := want[key]; !given {
			out = append(out, fmt.Sprintf("%s.%s was not recorded", path, key))
		}
	}
	return out
}

// arrays: the laboratory had more containers, hosts and services than a case makes, so those lists agree in whether
// they are empty, and in the shape of their first entry; every other list agrees entry by entry.
func (c *comparison) arrays(path, key string, want, got []any) []string {
	switch key {
	case "containers", "hosts", "services":
		if (len(want) == 0) != (len(got) == 0) {
			return []string{fmt.Sprintf("%s has %d entries, recorded %d", path, len(got), len(want))}
		}
		want, got = want[:min(1, len(want))], got[:min(1, len(got))]
		if len(want) == 1 && key != "containers" {
			return c.shape(path+"[0]", want[0], got[0])
		}
	}
	if len(want) != len(got) {
		return []string{fmt.Sprintf("%s has %d entries, recorded %d", path, len(got), len(want))}
	}
	var out []string
	for n := range want {
		out = append(out, c.compare(fmt.Sprintf("%s[%d]", path, n), "", want[n], got[n])...)
	}
	return out
}

// shape compares keys and types only.
func (c *comparison) shape(path string, want, got any) []string {
	recorded, _ := want.(map[string]any)
	own, _ := got.(map[string]any)
	var out []string
	for key := range recorded {
		if value, given := own[key]; !given || kind(value) != kind(recorded[key]) {
			out = append(out, fmt.Sprintf("%s.%s is %v, recorded %v", path, key, value, recorded[key]))
		}
	}
	return out
}

// texts compares after our ids are put into the recorded text. A broken request names a random id, and a traceback
// follows the first line of an error that came from a node.
func (c *comparison) texts(path, key, want, got string) []string {
	want = c.lab.replace(want)
	if c.status == 500 && key == "detail" {
		want, _, _ = strings.Cut(want, " is: ")
		got, _, _ = strings.Cut(got, " is: ")
	}
	if strings.Contains(want, "Traceback") {
		want, _, _ = strings.Cut(want, "\n")
		got, _, _ = strings.Cut(got, "\n")
	}
	if want != got {
		return []string{fmt.Sprintf("%s is %q, recorded %q", path, got, want)}
	}
	return nil
}

func kind(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case string:
		return "text"
	case bool:
		return "boolean"
	case float64:
		return "number"
	case []any:
		return "array"
	}
	return "object"
}
