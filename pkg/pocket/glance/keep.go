package glance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// kept is an image as it lies on the disk between two lives of the cloud.
type kept struct {
	ID, Owner, Visibility       string
	Name                        *string
	DiskFormat, ContainerFormat *string
	Size, VirtualSize           *int64
	Checksum, Hash              *string
	MinDisk, MinRAM             int64
	Protected, Hidden           bool
	Tags                        []string
	Properties                  map[string]string
	Stores                      []string
	Created, Updated            time.Time
}

// load reads the images that an earlier life kept. An image whose bytes are not whole is forgotten, and so are
// bytes of no image.
func (s *Service) load(file string) error {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pocket glance: %w", err)
	}
	var all []kept
	if len(data) > 0 {
		if err := json.Unmarshal(data, &all); err != nil {
			return fmt.Errorf("pocket glance: %s: %w", file, err)
		}
	}
	for _, k := range all {
		if k.Size != nil && s.whole(k) {
			s.images[k.ID] = &image{
				id: k.ID, status: active, owner: k.Owner, visibility: k.Visibility, name: k.Name, diskFormat: k.DiskFormat,
				containerFormat: k.ContainerFormat, size: k.Size, virtualSize: k.VirtualSize, checksum: k.Checksum, hash: k.Hash,
				minDisk: k.MinDisk, minRAM: k.MinRAM, protected: k.Protected, hidden: k.Hidden, tags: k.Tags, properties: k.Properties,
				stores: k.Stores, created: k.Created, updated: k.Updated,
			}
			s.images[k.ID].urlOf = s.locationOf(k.ID)
			s.order = append(s.order, k.ID)
		}
	}
	return s.removeStrays()
}

func (s *Service) whole(k kept) bool {
	for _, store := range k.Stores {
		info, err := os.Stat(s.path("stores", store, k.ID))
		if err != nil || info.Size() != *k.Size {
			return false
		}
	}
	return len(k.Stores) > 0
}

func (s *Service) removeStrays() error {
	for _, store := range s.opts.Stores {
		entries, err := os.ReadDir(s.path("stores", store))
		if err != nil {
			return fmt.Errorf("pocket glance: %w", err)
		}
		for _, e := range entries {
			i, known := s.images[e.Name()]
			if known && slices.Contains(i.stores, store) {
				continue
			}
			if err := os.RemoveAll(s.path("stores", store, e.Name())); err != nil {
				return fmt.Errorf("pocket glance: %w", err)
			}
		}
	}
	return nil
}

// save writes the active images for the next life.
func (s *Service) save(file string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []kept{}
	for _, id := range s.order {
		i, ok := s.images[id]
		if !ok || i.status != active {
			continue
		}
		all = append(all, kept{
			ID: i.id, Owner: i.owner, Visibility: i.visibility, Name: i.name, DiskFormat: i.diskFormat, ContainerFormat: i.containerFormat,
			Size: i.size, VirtualSize: i.virtualSize, Checksum: i.checksum, Hash: i.hash, MinDisk: i.minDisk, MinRAM: i.minRAM,
			Protected: i.protected, Hidden: i.hidden, Tags: i.tags, Properties: i.properties, Stores: i.stores, Created: i.created, Updated: i.updated,
		})
	}
	data, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return fmt.Errorf("pocket glance: %w", err)
	}
	if err := os.WriteFile(file+".part", data, 0o600); err != nil {
		return fmt.Errorf("pocket glance: %w", err)
	}
	return os.Rename(file+".part", file)
}

// locationOf gives the image's direct URL in each store.
func (s *Service) locationOf(id string) func(store string) string {
	return func(store string) string { return "file://" + s.path("stores", store, id) }
}
