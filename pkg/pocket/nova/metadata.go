package nova

import (
	"maps"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

func (s *Server) showMetadata(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"metadata": i.Metadata})
}

func (s *Server) addMetadata(c *call) (answer, error)     { return s.writeMetadata(c, false) }
func (s *Server) replaceMetadata(c *call) (answer, error) { return s.writeMetadata(c, true) }

func (s *Server) writeMetadata(c *call, replace bool) (answer, error) {
	i, err := s.findToChange(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Metadata map[string]string `json:"metadata"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil || body.Metadata == nil {
		return answer{}, badRequest("Invalid input for field/attribute metadata.")
	}
	before, after, _ := s.change(i.ID, func(i *instance) {
		if replace {
			i.Metadata = map[string]string{}
		}
		maps.Copy(i.Metadata, body.Metadata)
	})
	s.notifyUpdate(askOf(c), before, after)
	return ok(map[string]any{"metadata": after.Metadata})
}

func (s *Server) findToChange(c *call) (instance, error) {
	if err := c.may("member", "server-metadata:update"); err != nil {
		return instance{}, err
	}
	return s.find(c, c.PathValue("id"))
}

func (s *Server) showMetadataItem(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	value, found := i.Metadata[c.PathValue("key")]
	if !found {
		return answer{}, notFound("Metadata item was not found")
	}
	return ok(map[string]any{"meta": map[string]string{c.PathValue("key"): value}})
}

func (s *Server) setMetadataItem(c *call) (answer, error) {
	i, err := s.findToChange(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Meta map[string]string `json:"meta"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, badRequest("Invalid input for field/attribute meta.")
	}
	if _, named := body.Meta[c.PathValue("key")]; !named {
		return answer{}, badRequest("Request body and URI mismatch")
	}
	s.change(i.ID, func(i *instance) { maps.Copy(i.Metadata, body.Meta) })
	return ok(map[string]any{"meta": body.Meta})
}

func (s *Server) deleteMetadataItem(c *call) (answer, error) {
	i, err := s.findToChange(c)
	if err != nil {
		return answer{}, err
	}
	if _, found := i.Metadata[c.PathValue("key")]; !found {
		return answer{}, notFound("Metadata item was not found")
	}
	s.change(i.ID, func(i *instance) { delete(i.Metadata, c.PathValue("key")) })
	return answer{status: http.StatusNoContent}, nil
}
