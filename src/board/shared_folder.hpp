// A folder of the host as a virtio filesystem: virtiofsd is started, and ends with the machine.
#pragma once

#include "schema/channel_spec.hpp"
#include "virtio/vhost_user_fs.hpp"

namespace skerry::board {

/// Errors say what to install or to change in --share.
Result<std::unique_ptr<virtio::Fs>> share_folder(std::string name, const schema::ShareSpec& spec,
                                                 virtio::Environment environment);

}  // namespace skerry::board
