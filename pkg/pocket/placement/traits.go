package placement

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// standardTraits are those of os-traits that Nova sets or Kiln asks for; the full list has hundreds.
var standardTraits = []string{
	"COMPUTE_ACCELERATORS", "COMPUTE_DEVICE_TAGGING", "COMPUTE_GRAPHICS_MODEL_VGA", "COMPUTE_IMAGE_TYPE_AKI",
	"COMPUTE_IMAGE_TYPE_AMI", "COMPUTE_IMAGE_TYPE_ARI", "COMPUTE_IMAGE_TYPE_ISO", "COMPUTE_IMAGE_TYPE_QCOW2",
	"COMPUTE_IMAGE_TYPE_RAW", "COMPUTE_NET_ATTACH_INTERFACE", "COMPUTE_NET_VIF_MODEL_VIRTIO", "COMPUTE_NODE",
	"COMPUTE_RESCUE_BFV", "COMPUTE_SOCKET_PCI_NUMA_AFFINITY", "COMPUTE_STATUS_DISABLED", "COMPUTE_STORAGE_BUS_SCSI",
	"COMPUTE_STORAGE_BUS_VIRTIO", "COMPUTE_TRUSTED_CERTS", "COMPUTE_VOLUME_ATTACH_WITH_TAG", "COMPUTE_VOLUME_EXTEND",
	"COMPUTE_VOLUME_MULTI_ATTACH", "HW_ARCH_AARCH64", "HW_ARCH_X86_64", "HW_CPU_X86_AESNI", "HW_CPU_X86_AVX",
	"HW_CPU_X86_AVX2", "HW_CPU_X86_AVX512F", "HW_CPU_X86_SSE", "HW_CPU_X86_SSE2", "HW_CPU_X86_SSE41", "HW_CPU_X86_SSE42",
	"HW_CPU_X86_SVM", "HW_CPU_X86_VMX", "MISC_SHARES_VIA_AGGREGATE", "OWNER_CYBORG", "OWNER_NOVA",
	"STORAGE_DISK_HDD", "STORAGE_DISK_SSD",
}

// standardClasses are those of os-resource-classes.
var standardClasses = []string{
	"VCPU", "MEMORY_MB", "DISK_GB", "PCI_DEVICE", "SRIOV_NET_VF", "NUMA_SOCKET", "NUMA_CORE", "NUMA_THREAD",
	"NUMA_MEMORY_MB", "IPV4_ADDRESS", "VGPU", "VGPU_DISPLAY_HEAD", "NET_BW_EGR_KILOBIT_PER_SEC",
	"NET_BW_IGR_KILOBIT_PER_SEC", "PCPU", "MEM_ENCRYPTION_CONTEXT", "FPGA", "PGPU",
	"NET_PACKET_RATE_KILOPACKET_PER_SEC", "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC", "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
}

var customPattern = regexp.MustCompile(`^CUSTOM_[A-Z0-9_]+$`)

func (s *Service) knownTrait(name string) bool {
	return s.traits[name] || slices.Contains(standardTraits, name)
}

func (s *Service) knownClass(name string) bool {
	return s.classes[name] || slices.Contains(standardClasses, name)
}

func (s *Service) serveTraits(mux *http.ServeMux) {
	const one = "/resource_providers/{uuid}/traits"
	missing := http.StatusNotFound
	mux.HandleFunc("GET /traits", s.route("traits:list", 6, missing, s.listTraits))
	mux.HandleFunc("GET /traits/{name}", s.route("traits:show", 6, missing, s.showTrait))
	mux.HandleFunc("PUT /traits/{name}", s.route("traits:update", 6, missing, s.putTrait))
	mux.HandleFunc("DELETE /traits/{name}", s.route("traits:delete", 6, missing, s.deleteTrait))
	mux.HandleFunc("GET "+one, s.route("resource_providers:traits:list", 6, missing, s.showProviderTraits))
	mux.HandleFunc("PUT "+one, s.route("resource_providers:traits:update", 6, missing, s.putProviderTraits))
	mux.HandleFunc("DELETE "+one, s.route("resource_providers:traits:delete", 6, missing, s.deleteProviderTraits))
	mux.HandleFunc("GET /resource_classes", s.route("resource_classes:list", 2, missing, s.listClasses))
	mux.HandleFunc("GET /resource_classes/{name}", s.route("resource_classes:show", 2, missing, s.showClass))
	mux.HandleFunc("PUT /resource_classes/{name}", s.route("resource_classes:update", 7, missing, s.putClass))
	mux.HandleFunc("DELETE /resource_classes/{name}", s.route("resource_classes:delete", 2, missing, s.deleteClass))
}

func (s *Service) listTraits(c call) (answer, error) {
	all := append(slices.Clone(standardTraits), sorted(s.traits)...)
	kind, value, _ := strings.Cut(c.URL.Query().Get("name"), ":")
	found := []string{}
	for _, name := range all {
		if kind == "in" && !slices.Contains(split(value), name) || kind == "startswith" && !strings.HasPrefix(name, value) {
			continue
		}
		found = append(found, name)
	}
	return answer{status: http.StatusOK, body: map[string]any{"traits": found}}, nil
}

func (s *Service) showTrait(c call) (answer, error) {
	if name := c.PathValue("name"); !s.knownTrait(name) {
		return answer{}, notFound("No such trait(s): %s.", name)
	}
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) putTrait(c call) (answer, error) {
	name := c.PathValue("name")
	if !customPattern.MatchString(name) || len(name) > 255 {
		return answer{}, badRequest("The trait is invalid. A valid trait must be no longer than 255 characters, " +
			`start with the prefix "CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"`)
	}
	a := answer{status: http.StatusNoContent, location: "/traits/" + name}
	if !s.traits[name] {
		s.traits[name], a.status = true, http.StatusCreated
	}
	return a, nil
}

func (s *Service) deleteTrait(c call) (answer, error) {
	name := c.PathValue("name")
	if slices.Contains(standardTraits, name) {
		return answer{}, badRequest("Cannot delete standard trait %s.", name)
	}
	if !s.traits[name] {
		return answer{}, notFound("No such trait(s): %s.", name)
	}
	for _, p := range s.providers {
		if p.traits[name] {
			return answer{}, fail(http.StatusConflict, codeDefault, "The trait %s is in use by a resource provider.", name)
		}
	}
	delete(s.traits, name)
	return answer{status: http.StatusNoContent}, nil
}

func traitsOf(p *provider) answer {
	return answer{status: http.StatusOK, body: map[string]any{
		"traits": append([]string{}, sorted(p.traits)...), "resource_provider_generation": p.generation,
	}}
}

func (s *Service) showProviderTraits(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, notFound("No resource provider with uuid %s found: %s", c.PathValue("uuid"), err)
	}
	return traitsOf(p), nil
}

func (s *Service) putProviderTraits(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Generation *int64   `json:"resource_provider_generation"`
		Traits     []string `json:"traits"`
	}
	if err := c.decode(&body); err != nil {
		return answer{}, err
	}
	if body.Generation == nil || body.Traits == nil {
		return answer{}, badRequest("JSON does not validate: 'resource_provider_generation' is a required property")
	}
	if *body.Generation != p.generation {
		return answer{}, generationChanged()
	}
	wanted := map[string]bool{}
	for _, name := range body.Traits {
		if !s.knownTrait(name) {
			return answer{}, badRequest("No such trait %s", name)
		}
		wanted[name] = true
	}
	s.setTraits(p, wanted)
	return traitsOf(p), nil
}

// setTraits grows the generation only where something changes.
func (s *Service) setTraits(p *provider, wanted map[string]bool) {
	if !slices.Equal(sorted(p.traits), sorted(wanted)) {
		p.traits = wanted
		s.bump(p)
	}
}

func (s *Service) deleteProviderTraits(c call) (answer, error) {
	p, err := s.find(c)
	if err != nil {
		return answer{}, err
	}
	s.setTraits(p, map[string]bool{})
	return answer{status: http.StatusNoContent}, nil
}

func (s *Service) class(name string) map[string]any {
	return map[string]any{"name": name, "links": []any{
		map[string]string{"rel": "self", "href": "/" + s.kit.Service + "/resource_classes/" + name},
	}}
}

func (s *Service) listClasses(call) (answer, error) {
	list := []any{}
	for _, name := range append(slices.Clone(standardClasses), sorted(s.classes)...) {
		list = append(list, s.class(name))
	}
	return answer{status: http.StatusOK, body: map[string]any{"resource_classes": list}}, nil
}

func (s *Service) showClass(c call) (answer, error) {
	name := c.PathValue("name")
	if !s.knownClass(name) {
		return answer{}, notFound("No such resource class %s.", name)
	}
	return answer{status: http.StatusOK, body: s.class(name)}, nil
}

func (s *Service) putClass(c call) (answer, error) {
	name := c.PathValue("name")
	if !customPattern.MatchString(name) || len(name) > 255 {
		return answer{}, badRequest("JSON does not validate: '%s' does not match '^CUSTOM_[A-Z0-9_]+$'", name)
	}
	a := answer{status: http.StatusNoContent, location: "/resource_classes/" + name}
	if !s.classes[name] {
		s.classes[name], a.status = true, http.StatusCreated
	}
	return a, nil
}

func (s *Service) deleteClass(c call) (answer, error) {
	name := c.PathValue("name")
	if slices.Contains(standardClasses, name) {
		return answer{}, badRequest("Error in delete resource class: Cannot delete standard resource class %s.", name)
	}
	if !s.classes[name] {
		return answer{}, notFound("No such resource class %s.", name)
	}
	for _, p := range s.providers {
		if _, used := p.inventories[name]; used {
			return answer{}, fail(http.StatusConflict, codeDefault,
				"Error in delete resource class: Cannot delete resource class %s. Class is in use in inventory.", name)
		}
	}
	delete(s.classes, name)
	return answer{status: http.StatusNoContent}, nil
}
