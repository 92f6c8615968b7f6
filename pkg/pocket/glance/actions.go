package glance

import (
	"errors"
	"net/http"
	"os"
	"slices"
)

// remove is DELETE /v2/images/{id}: the bytes in all stores go with it.
func (s *Service) remove(c call) (answer, error) {
	i, err := s.own(c, "delete_image")
	var e *apiError
	if errors.As(err, &e) && e.status == http.StatusNotFound {
		return answer{}, fail(http.StatusNotFound, "Failed to find image %s to delete", c.id())
	}
	if err != nil {
		return answer{}, err
	}
	if i.protected {
		return answer{}, fail(http.StatusForbidden, "Image %s is protected and cannot be deleted.", i.id)
	}
	for _, store := range i.stores {
		if err := os.Remove(s.path("stores", store, i.id)); err != nil {
			return answer{}, err
		}
	}
	_ = os.Remove(s.path("staging", i.id)) // most images have none
	i.status, i.stores = deleted, nil
	s.touch(i)
	delete(s.images, i.id)
	s.gone[i.id] = true
	s.order = slices.DeleteFunc(s.order, func(id string) bool { return id == i.id })
	s.notifyDelete(i)
	return answer{status: http.StatusNoContent}, nil
}

// removeFromStore is DELETE /v2/stores/{store}/{id}; the last copy stays.
func (s *Service) removeFromStore(c call) (answer, error) {
	store := c.PathValue("store")
	if !slices.Contains(s.opts.Stores, store) {
		return answer{}, fail(http.StatusConflict, "The selected store %s is not available on this node.", store)
	}
	i, err := s.find(c)
	if err != nil {
		return answer{}, fail(http.StatusNotFound, "Failed to find image %s", c.id())
	}
	switch {
	case !c.caller.Admin():
		return answer{}, forbidden("delete_image_location")
	case i.status != active:
		return answer{}, fail(http.StatusConflict, "It's not allowed to remove image data from store if image status is not 'active'")
	case !slices.Contains(i.stores, store):
		return answer{}, fail(http.StatusNotFound, "Image %s is not stored in store %s.", i.id, store)
	case len(i.stores) == 1:
		return answer{}, fail(http.StatusForbidden, "Cannot delete image data from the only store containing it. Consider deleting the image instead.")
	}
	if err := os.Remove(s.path("stores", store, i.id)); err != nil {
		return answer{}, err
	}
	i.stores = slices.DeleteFunc(slices.Clone(i.stores), func(have string) bool { return have == store })
	s.touch(i)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) deactivate(c call) (answer, error) {
	return s.act(c, "deactivate", active, deactivated)
}

func (s *Service) reactivate(c call) (answer, error) {
	return s.act(c, "reactivate", deactivated, active)
}

func (s *Service) act(c call, rule, from, to string) (answer, error) {
	i, err := s.find(c)
	switch {
	case err != nil:
		return answer{}, err
	case !c.caller.Admin():
		return answer{}, forbidden(rule)
	case i.status != from && i.status != to:
		return answer{}, fail(http.StatusForbidden, "Not allowed to %s image in status '%s'", rule, i.status)
	}
	i.status = to
	s.touch(i)
	s.notify("update", i, nil)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) putTag(c call) (answer, error) {
	i, err := s.own(c, "modify_image")
	if err != nil {
		return answer{}, err
	}
	if tag := c.PathValue("tag"); !slices.Contains(i.tags, tag) {
		i.tags = append(slices.Clone(i.tags), tag)
		slices.Sort(i.tags)
	}
	s.touch(i)
	s.notify("update", i, nil)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) deleteTag(c call) (answer, error) {
	i, err := s.own(c, "modify_image")
	if err != nil {
		return answer{}, err
	}
	tag := c.PathValue("tag")
	if !slices.Contains(i.tags, tag) {
		return answer{}, fail(http.StatusNotFound, "")
	}
	i.tags = slices.DeleteFunc(slices.Clone(i.tags), func(have string) bool { return have == tag })
	s.touch(i)
	s.notify("update", i, nil)
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) stores() []map[string]any {
	list := []map[string]any{}
	for n, store := range s.opts.Stores {
		d := map[string]any{"id": store}
		if n == 0 {
			d["default"] = "true"
		}
		list = append(list, d)
	}
	return list
}

func (s *Service) listStores(call) (answer, error) {
	return answer{status: http.StatusOK, body: map[string]any{"stores": s.stores()}}, nil
}

func (s *Service) detailStores(c call) (answer, error) {
	if !c.caller.Admin() {
		return answer{}, forbidden("stores_info_detail")
	}
	list := s.stores()
	for _, d := range list {
		d["type"] = "file"
		d["properties"] = map[string]any{"data_dir": s.path("stores", d["id"].(string)), "chunk_size": 65536, "thin_provisioning": false}
	}
	return answer{status: http.StatusOK, body: map[string]any{"stores": list}}, nil
}

func (s *Service) showImportMethods(call) (answer, error) {
	return answer{status: http.StatusOK, body: map[string]any{"import-methods": map[string]any{
		"description": "Import methods available.", "type": "array", "value": importMethods,
	}}}, nil
}

// showSchema answers the outline that clients look at: which attributes are base ones.
func (s *Service) showSchema(c call) (answer, error) {
	kind := c.PathValue("kind")
	if !slices.Contains([]string{"image", "images", "member", "members", "task", "tasks"}, kind) {
		return answer{}, fail(http.StatusNotFound, "")
	}
	properties := map[string]any{}
	if kind == "image" {
		for _, key := range slices.Concat(base, readOnly, []string{"stores", "locations"}) {
			d := map[string]any{"is_base": true}
			if slices.Contains(readOnly, key) || key == "stores" {
				d["readOnly"] = true
			}
			properties[key] = d
		}
	}
	return answer{status: http.StatusOK, body: map[string]any{"name": kind, "properties": properties,
		"additionalProperties": map[string]string{"type": "string"}}}, nil
}
