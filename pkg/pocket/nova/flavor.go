package nova

import (
	"net/http"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

type flavor struct {
	ID, Name               string
	VCPUs, RAM, Disk, Swap int64 // count, MB, GB, MB
	Ephemeral              int64 // GB
	Public                 bool
	RxTx                   float64
	Description            *string
}

func (s *Server) link(rel, kind, id string) map[string]any {
	base := s.deps.URL + "/v2.1/"
	if rel == "bookmark" {
		base = s.deps.URL + "/"
	}
	return map[string]any{"rel": rel, "href": base + kind + "/" + id}
}

func (s *Server) links(kind, id string) []any {
	return []any{s.link("self", kind, id), s.link("bookmark", kind, id)}
}

func (s *Server) flavorSummary(c *call, f *flavor) map[string]any {
	view := map[string]any{"id": f.ID, "name": f.Name, "links": s.links("flavors", f.ID)}
	if c.at(55) {
		view["description"] = f.Description
	}
	return view
}

func (s *Server) flavorView(c *call, f *flavor) map[string]any {
	view := s.flavorSummary(c, f)
	view["ram"], view["disk"], view["vcpus"] = f.RAM, f.Disk, f.VCPUs
	view["OS-FLV-EXT-DATA:ephemeral"], view["OS-FLV-DISABLED:disabled"] = f.Ephemeral, false
	view["os-flavor-access:is_public"], view["rxtx_factor"] = f.Public, f.RxTx
	view["swap"] = any(f.Swap)
	if !c.at(75) && f.Swap == 0 {
		view["swap"] = "" // as Nova wrote "no swap" below 2.75
	}
	if c.at(61) {
		view["extra_specs"] = map[string]any{}
	}
	return view
}

func (s *Server) listFlavors(c *call) (answer, error) { return s.flavorList(c, s.flavorSummary) }

func (s *Server) listFlavorsDetail(c *call) (answer, error) { return s.flavorList(c, s.flavorView) }

func (s *Server) flavorList(c *call, view func(*call, *flavor) map[string]any) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []any{}
	for _, f := range s.flavors {
		list = append(list, view(c, f))
	}
	return ok(map[string]any{"flavors": list})
}

func (s *Server) flavor(id string) *flavor {
	for _, f := range s.flavors {
		if f.ID == id {
			return f
		}
	}
	return nil
}

func (s *Server) showFlavor(c *call) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flavor(c.PathValue("id"))
	if f == nil {
		return answer{}, notFound("Flavor %s could not be found.", c.PathValue("id"))
	}
	return ok(map[string]any{"flavor": s.flavorView(c, f)})
}

func (s *Server) showExtraSpecs(c *call) (answer, error) {
	if _, err := s.showFlavor(c); err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"extra_specs": map[string]any{}})
}

// flavorRequest takes the numbers as Nova does: as numbers or as strings.
type flavorRequest struct {
	Name        string  `json:"name"`
	ID          *string `json:"id"`
	FlavorID    *string `json:"flavorid"`
	RAM         number  `json:"ram"`
	VCPUs       number  `json:"vcpus"`
	Disk        number  `json:"disk"`
	Swap        number  `json:"swap"`
	Ephemeral   number  `json:"OS-FLV-EXT-DATA:ephemeral"`
	Public      *bool   `json:"os-flavor-access:is_public"`
	RxTx        any     `json:"rxtx_factor"`
	Description *string `json:"description"`
}

type number int64

// UnmarshalJSON reads 5 and "5".
func (n *number) UnmarshalJSON(raw []byte) error {
	text := string(raw)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	if text == "" || text == "null" {
		*n = 0
		return nil
	}
	value, err := strconv.ParseInt(text, 10, 64)
	*n = number(value)
	return err
}

func (s *Server) createFlavor(c *call) (answer, error) {
	if err := c.may("admin", "os-flavor-manage:create"); err != nil {
		return answer{}, err
	}
	var body struct {
		Flavor *flavorRequest `json:"flavor"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, malformed()
	}
	in := body.Flavor
	if in == nil {
		return answer{}, badRequest("'flavor' is a required property")
	}
	switch {
	case in.Name == "":
		return answer{}, badRequest("Invalid input for field/attribute flavor. Value: {}. 'name' is a required property")
	case in.VCPUs < 1:
		return answer{}, badRequest("Invalid input for field/attribute vcpus. Value: %d. %d is less than the minimum of 1", in.VCPUs, in.VCPUs)
	case in.RAM < 1:
		return answer{}, badRequest("Invalid input for field/attribute ram. Value: %d. %d is less than the minimum of 1", in.RAM, in.RAM)
	case in.Disk < 0:
		return answer{}, badRequest("Invalid input for field/attribute disk. Value: %d. %d is less than the minimum of 0", in.Disk, in.Disk)
	}
	f := &flavor{
		ID: s.deps.NewID(), Name: in.Name, VCPUs: int64(in.VCPUs), RAM: int64(in.RAM), Disk: int64(in.Disk),
		Swap: int64(in.Swap), Ephemeral: int64(in.Ephemeral), Public: in.Public == nil || *in.Public, RxTx: 1, Description: in.Description,
	}
	if in.ID != nil && *in.ID != "" && *in.ID != "auto" {
		f.ID = *in.ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.flavors {
		if other.Name == f.Name {
			return answer{}, conflict("Flavor with name %s already exists.", f.Name)
		}
		if other.ID == f.ID {
			return answer{}, conflict("Flavor with ID %s already exists.", f.ID)
		}
	}
	s.flavors = append(s.flavors, f)
	return ok(map[string]any{"flavor": s.flavorView(c, f)})
}

func (s *Server) deleteFlavor(c *call) (answer, error) {
	if err := c.may("admin", "os-flavor-manage:delete"); err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.flavors {
		if f.ID == c.PathValue("id") {
			s.flavors = append(s.flavors[:i], s.flavors[i+1:]...)
			return answer{status: http.StatusAccepted}, nil
		}
	}
	return answer{}, notFound("Flavor %s could not be found.", c.PathValue("id"))
}
