package recipe

import (
	"maps"
	"slices"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// Resolve lays a recipe over all that it stands on, and fills in what nobody gave. Lists of what is done are joined
// (base first), so are tests and members; single values of the upper one win, and so do its partitions, datasources
// and further outputs as a whole. Triggers are each recipe's own.
func (s *Set) Resolve(name string) (*Recipe, error) {
	var chain []*Recipe
	for on := name; on != ""; {
		r, ok := s.Recipes[on]
		if !ok || slices.Contains(chain, r) { // checkFrom let none such through; a Set that was changed is refused
			return nil, errs.New(errs.NotFound, "kiln.recipe.not_found", "there is no valid recipe %q", on)
		}
		chain, on = append(chain, r), r.From.Recipe
	}
	out := *chain[len(chain)-1]
	for _, r := range slices.Backward(chain[:len(chain)-1]) {
		out = over(out, *r)
	}
	if out.Disk.Size == 0 {
		out.Disk.Size = DefaultSize
	}
	out.Disk.Firmware = first(out.Disk.Firmware, "bios")
	out.Kernel.Package = first(out.Kernel.Package, DefaultKernel)
	out.Output.Format = first(out.Output.Format, DefaultFormat)
	out.Publish.Visibility = first(out.Publish.Visibility, "private")
	out.Publish.Channel = first(out.Publish.Channel, "candidate")
	out.Builder.Name = first(out.Builder.Name, DefaultBuilder)
	// An artifact that the base asks for may be the format that the top chose.
	out.Output.Also = slices.DeleteFunc(slices.Clone(out.Output.Also), func(f string) bool { return f == out.Output.Format })
	return &out, nil
}

func over(base, top Recipe) Recipe {
	out := top
	out.From = base.From
	out.Builder = builderOver(base.Builder, top.Builder)
	out.Values = mapOver(base.Values, top.Values)
	out.Packages = unique(slices.Concat(base.Packages, top.Packages))
	out.Files = slices.Concat(base.Files, top.Files)
	out.Users = slices.Concat(base.Users, top.Users)
	out.Scripts = slices.Concat(base.Scripts, top.Scripts)
	out.Services.Enable = unique(slices.Concat(base.Services.Enable, top.Services.Enable))
	out.Services.Disable = unique(slices.Concat(base.Services.Disable, top.Services.Disable))
	out.Steps = slices.Concat(base.Steps, top.Steps)
	out.CloudInit.Datasources = firstList(top.CloudInit.Datasources, base.CloudInit.Datasources)
	if out.Disk.Size == 0 {
		out.Disk.Size = base.Disk.Size
	}
	out.Disk.Firmware = first(top.Disk.Firmware, base.Disk.Firmware)
	out.Disk.Partitions = firstList(top.Disk.Partitions, base.Disk.Partitions)
	out.Kernel.Package = first(top.Kernel.Package, base.Kernel.Package)
	out.Kernel.Arguments = strings.TrimSpace(base.Kernel.Arguments + " " + top.Kernel.Arguments)
	out.Output.Format = first(top.Output.Format, base.Output.Format)
	out.Output.Also = firstList(top.Output.Also, base.Output.Also)
	out.Publish.Visibility = first(top.Publish.Visibility, base.Publish.Visibility)
	out.Publish.Members = unique(slices.Concat(base.Publish.Members, top.Publish.Members))
	out.Publish.Protected = top.Publish.Protected || base.Publish.Protected
	out.Publish.Channel = first(top.Publish.Channel, base.Publish.Channel)
	out.Tests = slices.Concat(base.Tests, top.Tests)
	out.Properties = mapOver(base.Properties, top.Properties)
	// A step sees the values of its own recipe and of those below it, never of those above: its result stays the same
	// for all that stand on it.
	out.Plan = slices.Clone(base.Plan)
	for _, s := range top.Plan {
		s.Values = out.Values
		out.Plan = append(out.Plan, s)
	}
	return out
}

// builderOver takes the base's builder where the top names none or the same; a top with another one takes nothing of it.
func builderOver(base, top Builder) Builder {
	if top.Name != "" && top.Name != first(base.Name, DefaultBuilder) {
		return top
	}
	return Builder{
		Name: first(top.Name, base.Name), Needs: unique(slices.Concat(base.Needs, top.Needs)), Template: first(top.Template, base.Template),
		Elements: unique(slices.Concat(base.Elements, top.Elements)), Settings: mapOver(base.Settings, top.Settings),
	}
}

func mapOver(base, top map[string]string) map[string]string {
	if len(base)+len(top) == 0 {
		return nil
	}
	out := maps.Clone(base)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, top)
	return out
}

func firstList[T any](a, b []T) []T {
	if len(a) > 0 {
		return a
	}
	return b
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
